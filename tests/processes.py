"""Starts the `cbjax` command as a user would, in a process of its own that tests can kill."""

import os
import pathlib
import subprocess
import sys
import time


def command(*arguments):
    return [sys.executable, "-c", "import sys; from cbjax.cli import main; sys.exit(main())", *map(str, arguments)]


def environment(devices=1, **variables):
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return {
        **os.environ,
        "XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"]),
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        **variables,
    }


def run(*arguments, devices=1, timeout=300, **variables):
    """Runs the command to its end; returns it with its exit status and output."""
    return subprocess.run(
        command(*arguments),
        env=environment(devices, **variables),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start(*arguments, devices=1):
    """Starts the command; its output is collected."""
    return subprocess.Popen(
        command(*arguments), env=environment(devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def checkpoints(workdir):
    """Lists the steps of the checkpoints that are committed, also while others are being written."""
    folder = pathlib.Path(workdir, "checkpoints")
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def wait_for_checkpoint(process, workdir, step=1):
    """Waits until a checkpoint of `step` or later is finished; says whether the process got there."""
    return wait_for(process, lambda: (checkpoints(workdir) or [0])[-1] >= step)


def wait_for(process, condition, timeout=120):
    """Waits until the condition holds or the process has ended; says whether it holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None:
            return condition()
        assert time.monotonic() < deadline, "the process did not get there"
        time.sleep(0.005)
    return True
