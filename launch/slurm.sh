#!/usr/bin/env bash
# bash launch/slurm.sh OPTIONS -- train --config=FILE --workdir=DIR ...
#
# Sets cbjax up in .venv of this clone, on a file system that all nodes share, and submits a job that runs the command on
# every GPU of its nodes, one process a GPU, as JAX expects it of Slurm. At its time limit the job saves and goes back into
# the queue, also when it is preempted or loses a node, and then goes on from its work directory.
#
#   --gpus-per-node=N    GPUs of each node
#   --nodes=N            (default: 1)
#   --cpus-per-gpu=N     cores of each process, for reading and decoding images (default: 8)
#   --time=LIMIT         of each stay on the nodes, as Slurm writes it (default: 24:00:00)
#   --grace=SECONDS      how long before the limit the job is told to save (default: 120)
#   --name=NAME          of the job; its output is in NAME-JOB.log (default: cbjax)
#   --sbatch-flag=FLAG   one more flag of sbatch, such as --sbatch-flag=--partition=gpu; may be repeated
#   --dry-run            print the commands, run none; needs no other option
#   --help
set -euo pipefail
called_from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
name=cbjax nodes=1 gpus="" cpus=8 limit=24:00:00 grace=120
flags=()
while [ $# -gt 0 ]; do
    case $1 in
        --gpus-per-node=*) gpus=${1#*=} ;;
        --nodes=*) nodes=${1#*=} ;;
        --cpus-per-gpu=*) cpus=${1#*=} ;;
        --time=*) limit=${1#*=} ;;
        --grace=*) grace=${1#*=} ;;
        --name=*) name=${1#*=} ;;
        --sbatch-flag=*) flags+=("${1#*=}") ;;
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
    gpus=${gpus:-8}
fi
set_arguments "$@"
[ -n "$gpus" ] || fail "needs --gpus-per-node=N"
whole_number --gpus-per-node "$gpus"
whole_number --nodes "$nodes"
whole_number --cpus-per-gpu "$cpus"
whole_number --grace "$grace"
need sbatch "Slurm; run this on a machine that submits jobs"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
clone=$PWD
set_up "$clone" "$(extras cuda "${arguments[@]}")"
cd "$called_from"
# In the name of a file Slurm takes a percent sign for the start of a field, such as the job's number.
# The signal goes to the batch script alone: there it says that the limit is near, which SIGTERM, sent by scancel too, does not.
run sbatch --job-name="$name" --output="${name//%/%%}-%j.log" --open-mode=append --requeue --signal="B:USR1@$grace" \
    --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --cpus-per-task="$cpus" --time="$limit" \
    ${flags[@]+"${flags[@]}"} "$clone/launch/slurm_job.sh" "$clone" "${arguments[@]}"
if $dry_run; then
    echo "# on the first node of the job:"
    SLURM_JOB_ID=JOB SLURM_CPUS_PER_TASK=$cpus bash "$clone/launch/slurm_job.sh" "$clone" --dry-run "${arguments[@]}"
fi
