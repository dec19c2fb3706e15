"""Stand-ins for gcloud, Slurm, kubectl, nvidia-smi and Python, which record their calls, for the tests of `launch/`."""

import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).parent.parent
# All that the scripts may find on PATH beside the stand-ins: a real gcloud on the machine must never be reached.
BASIC = [
    "bash",
    "sh",
    "sed",
    "dirname",
    "basename",
    "cat",
    "tar",
    "gzip",
    "mktemp",
    "rm",
    "sleep",
    "tr",
    "grep",
    "cksum",
]
BASIC += ["find", "chmod", "mkdir", "cp", "mv", "head", "touch", "ps", "wc", "tee", "sort"]

# Every stand-in begins with this: one line a call, the words apart by the unit separator.
RECORD = r"""#!/usr/bin/env bash
set -u
tool=${0##*/}
printf -v words '%s\037' "$tool" "$@"
printf '%s\n' "${words//$'\n'/ }" >>"$FAKE/calls"
next() { # file: prints its first line and removes it
    head -n 1 "$FAKE/$1"
    sed 1d "$FAKE/$1" >"$FAKE/rest" && mv "$FAKE/rest" "$FAKE/$1"
}
"""

TOOLS = {
    # A slice whose state moves on whenever it is asked for; its one worker is a folder, where commands run for real.
    "gcloud": r"""
state=$(cat "$FAKE/state" 2>/dev/null)
case "$3 $4" in
    "queued-resources list")
        [ ! -e "$FAKE/logged_out" ] || { echo "ERROR: you are logged out" >&2; exit 1; }
        echo "$state"
        case $state in
            WAITING_FOR_RESOURCES) echo PROVISIONING >"$FAKE/state" ;;
            PROVISIONING) echo ACTIVE >"$FAKE/state" ;;
        esac
        ;;
    "tpu-vm list") [ ! -e "$FAKE/machines" ] && echo READY || cat "$FAKE/machines" ;;
    "queued-resources create") echo WAITING_FOR_RESOURCES >"$FAKE/state" ;;
    "queued-resources delete") rm -rf "$FAKE/state" "$FAKE/machines" "$FAKE/worker" ;;
    "tpu-vm scp") mkdir -p "$FAKE/worker" && cp "$5" "$FAKE/worker/${6#*:}" ;;
    "tpu-vm ssh")
        for word; do case $word in --command=*) command=${word#*=} ;; esac; done
        (cd "$FAKE/worker" && HOME=$FAKE/worker bash -c "$command")
        status=$?
        # The connection to a machine that was taken away hangs.
        if [ "$(cat "$FAKE/state")" != ACTIVE ] || [ -e "$FAKE/machines" ]; then exec sleep 60; fi
        exit "$status"
        ;;
esac
""",
    "nvidia-smi": 'echo "index, name"; exit "$(cat "$FAKE/gpus" 2>/dev/null || echo 0)"',
    "sbatch": "",
    # Tells the batch script, as Slurm does, and the job, as scancel does.
    "srun": r"""
case $(next runs) in
    limit)
        kill -USR1 $PPID
        while [ ! -e "$FAKE/told" ]; do sleep 0.02; done
        exit 143
        ;;
    cancelled) kill -TERM $PPID; sleep 0.2; exit 143 ;;
    mistake) exit 2 ;;
    *) exit 0 ;;
esac
""",
    "scancel": 'touch "$FAKE/told"',
    "scontrol": "",
    "kubectl": 'cat >"$FAKE/manifest"',
    # Makes a virtual environment whose Python is itself and whose cbjax is the stand-in below.
    "python3": r"""
case "$*" in
    "-c "*) [ "$tool" != python3 ] || [ ! -e "$FAKE/old_python" ] ;;
    --version) echo "Python 3.12.0" ;;
    "-m venv "*)
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip" && cp "$FAKE/cbjax" "$3/bin/cbjax"
        ;;
    "-m uv python find "*) cp "$0" "$FAKE/python3.12" && echo "$FAKE/python3.12" ;;
esac
""",
}

CBJAX = r"""
case $(next runs) in
    preempted) echo SUSPENDED >"$FAKE/state"; exit 2 ;;
    machines) echo PREEMPTED >"$FAKE/machines"; exit 134 ;;
    killed)
        echo "UNAVAILABLE: Task 3 heartbeat timeout. This indicates that the remote task has failed. Task: 3" >&2
        echo "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 3 heartbeat timeout." >&2
        kill -ABRT $$
        ;;
    diverged) exit 1 ;;
    waits)
        trap 'echo saved >"$FAKE/saved"; exit 143' TERM
        touch "$FAKE/started"
        for ((i = 0; i < 500; i++)); do sleep 0.02; done
        ;;
esac
exit 0
"""


class Machine:
    """A clone whose folder has a space in its name, and a PATH of stand-ins."""

    def __init__(self, folder):
        self.clone = folder / "the clone"
        self.fake = folder / "fake"
        self.bin = self.fake / "bin"
        self.bin.mkdir(parents=True)
        self.clone.mkdir()
        shutil.copytree(ROOT / "launch", self.clone / "launch")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.clone)
        for name in BASIC:
            (self.bin / name).symlink_to(shutil.which(name))
        for name, body in TOOLS.items():
            self._write(self.bin / name, body)
        self._write(self.fake / "cbjax", CBJAX)
        (self.fake / "calls").touch()
        self.plan()

    def _write(self, path, body):
        path.write_text(RECORD + body)
        path.chmod(0o755)

    def plan(self, *runs):
        """Says how the runs of cbjax (of the job, for Slurm) end, one after another. Later runs succeed."""
        (self.fake / "runs").write_text("".join(f"{run}\n" for run in runs))

    def environment(self, **variables):
        names = {"PATH": str(self.bin), "FAKE": str(self.fake), "HOME": str(self.fake), "CBJAX_POLL_SECONDS": "0.05"}
        return {**names, "TMPDIR": str(self.fake), "LC_ALL": "C.UTF-8", **variables}

    def start(self, script, *arguments, **variables):
        return subprocess.Popen(
            [str(self.bin / "bash"), str(self.clone / "launch" / script), *arguments],
            env=self.environment(**variables),
            cwd=self.fake,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script, *arguments, **variables):
        """Runs a script of `launch/` to its end; returns it with its exit status and output."""
        process = self.start(script, *arguments, **variables)
        process.stdout, process.stderr = process.communicate(timeout=30)
        return process

    def calls(self, *tools):
        """Lists the recorded calls of some tools, each a list of words."""
        calls = [line.split("\x1f")[:-1] for line in (self.fake / "calls").read_text().splitlines()]
        return [words for words in calls if words[0] in tools]

    def verbs(self):
        """Lists what gcloud was asked to do, without its questions for states."""
        verbs = [" ".join(words[4:5]) for words in self.calls("gcloud")]
        return [verb for verb in verbs if verb != "list"]

    def remote(self):
        """Lists the commands that workers were given."""
        return [word for call in self.calls("gcloud") for word in call if word.startswith("--command=")]


def shell_words(line):
    """Splits a line as the shell does."""
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True, env=os.environ)
    return printed.stdout.decode().split("\0")[:-1]
