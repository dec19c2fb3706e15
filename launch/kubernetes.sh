#!/usr/bin/env bash
# bash launch/kubernetes.sh OPTIONS -- train --config=FILE --workdir=gs://BUCKET/DIR ...
#
# Fills in launch/kubernetes.yaml and applies it: a Job of one pod a host, each with one process for all its GPUs, which is
# restarted as often as pods are lost and goes on from its work directory, a bucket or a volume that all pods share.
#
#   --image=IMAGE          with cbjax[train,cuda,gcs] installed
#   --hosts=N              pods (default: 1)
#   --gpus-per-host=N      (default: 8)
#   --name=NAME            of the Job and its Service (default: cbjax)
#   --kubectl-flag=FLAG    one more flag of kubectl, such as --kubectl-flag=--namespace=NAMESPACE; may be repeated
#   --dry-run              print the manifest and the command, apply nothing; needs no other option
#   --help
set -euo pipefail
folder=$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")" >/dev/null && pwd)
source "$folder/common.sh"
name=cbjax image="" hosts=1 gpus=8
flags=()
while [ $# -gt 0 ]; do
    case $1 in
        --image=*) image=${1#*=} ;;
        --hosts=*) hosts=${1#*=} ;;
        --gpus-per-host=*) gpus=${1#*=} ;;
        --name=*) name=${1#*=} ;;
        --kubectl-flag=*) flags+=("${1#*=}") ;;
        --dry-run) dry_run=true ;;
        --help)
            usage "${BASH_SOURCE[0]}"
            exit
            ;;
        --)
            shift
            break
            ;;
        *) fail "unknown option $1: --help lists them, with an equals sign; cbjax's arguments go behind --" ;;
    esac
    shift
done
if $dry_run; then
    image=${image:-IMAGE}
fi
if [ $# -eq 0 ]; then
    $dry_run || fail "needs cbjax's arguments behind --, such as: -- train --config=imagenet:goyal --workdir=gs://BUCKET/DIR"
    set -- train --config=imagenet:goyal --workdir=gs://BUCKET/DIR
fi
case $1 in
    train | sweep) ;;
    *) fail "the processes of a Job train together: the command must be train or sweep; got '$1'" ;;
esac
[ -n "$image" ] || fail "needs --image=IMAGE"
whole_number --hosts "$hosts"
whole_number --gpus-per-host "$gpus"
case $name in
    '' | [!a-z]* | *[!a-z0-9-]*) fail "--name must begin with a letter and have lower case letters, digits and hyphens; got '$name'" ;;
esac
need kubectl "the command of Kubernetes, with a cluster set up"

yaml_string() { # text: in double quotes, as YAML reads it
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\t'/\\t}
    printf '"%s"' "$text"
}

manifest() {
    local line argument listed=false
    while IFS= read -r line; do
        case $line in
            *"# NAME") line=${line% # NAME} && echo "${line//cbjax/$name}" ;;
            *"# HOSTS") echo "${line%%[0-9]*}$hosts" ;;
            *"# GPUS") echo "${line%%[0-9]*}$gpus" ;;
            *"# IMAGE") echo "${line%%: *}: $(yaml_string "$image")" ;;
            *"# ARGUMENTS")
                $listed || for argument; do
                    # Kubernetes puts a variable in the place of $(NAME), and one dollar in that of two.
                    echo "            - $(yaml_string "${argument//\$/\$\$}")"
                done
                listed=true
                ;;
            *) echo "$line" ;;
        esac
    done <"$folder/kubernetes.yaml"
}

if $dry_run; then
    manifest "$@"
    echo "# applied with: $(run kubectl apply --filename=- ${flags[@]+"${flags[@]}"})"
    exit
fi
manifest "$@" | kubectl apply --filename=- ${flags[@]+"${flags[@]}"}
say "kubectl logs --follow job/$name shows the first process; kubectl delete job/$name service/$name ends it"
