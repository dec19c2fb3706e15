"""`cbjax compile`: asks the TPU compiler what a config needs of a TPU slice, without a TPU and without the data."""

import contextlib
import importlib.util
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cbjax import config as configs
from cbjax.estimate import roofline, tpu

MINUTE = 60.0  # seconds
# What libtpu needs in its environment if there is no TPU; the same for every topology.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # No chip is used, so several compilers may run at a time, also next to a training run.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
}


class CompileError(RuntimeError):
    """There is no TPU compiler here, or it failed; the message says all that a person needs to know."""


def compile_for(
    config_name: str,
    overrides: Sequence[str],
    topology: str,
    *,
    num_classes: int | None = None,
    num_images: int | None = None,
    image_size: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compiles a config's training and evaluation programs for a TPU slice; takes minutes for a deep network.

    Args:
      config_name: a file, or the name of a config of cbjax.
      overrides: "KEY=VALUE" texts.
      topology: JAX's name of the slice, such as "v5e:4x8".
      num_classes, num_images, image_size: needed if the data's name does not say them (`abstract_data.describe`).
      tell: takes a line each minute.

    Returns:
      Figures for one chip. "train" and "evaluation": from `tpu_programs.measure`. "fits": whether both do. Also the
      sizes that were compiled for, and bounds: "bound" (`roofline.bound`, seconds), "images_per_second" of the slice
      and "run_seconds" of all steps. If training does not fit, "largest" has the estimated number of images a chip and
      the result of compiling for it.

    Raises:
      ConfigError: if the config is wrong or does not fit the slice.
      TopologyError: if there is no such slice.
      CompileError: if libtpu is not installed, or the compiler fails.
    """
    chip, num_chips = tpu.parse_topology(topology)
    config = configs.load(config_name, overrides)
    batches = {"batch_size": config.batch_size, "evaluation.batch_size": config.evaluation.batch_size}
    if config.meta.name != "none":
        batches["meta.batch_size"] = config.meta.batch_size
    for key, size in batches.items():
        if size is not None and size % num_chips:
            near = " or ".join(str(n) for n in (size - size % num_chips, size - size % num_chips + num_chips) if n)
            raise configs.ConfigError(
                f"{key} must be a multiple of the number of chips of {topology}, {num_chips}; got {size}: use {near}"
            )
    configs.check_shares(config, num_chips)
    if importlib.util.find_spec("libtpu") is None:
        raise CompileError(
            "the TPU compiler, libtpu, is not installed: pip install 'cbjax[tpu]' (Linux on x86; no TPU needed)"
        )
    answer = _ask(
        {
            "config": config_name,
            "overrides": list(overrides),
            "topology": topology,
            "data": {"num_classes": num_classes, "num_images": num_images, "image_size": image_size},
        },
        tell,
    )
    return {"model": config.model.name, "topology": topology, **answer, **_bounds(answer, chip)}


def _bounds(answer, chip):
    fits = answer["train"]["fits"] and answer["evaluation"]["fits"]
    if not answer["train"]["fits"]:
        return {"fits": fits}
    times = roofline.bound_of(answer["train"], chip, answer["num_chips"])
    return {
        "fits": fits,
        "bound": {**times._asdict(), "step": times.step, "not_overlapped": times.not_overlapped},
        "images_per_second": answer["batch_size"] / times.step,
        "run_seconds": answer["num_steps"] * times.step,
    }


def _ask(request, tell):
    """Runs the compiler in its own process and returns its answer."""
    # That process must import cbjax from this folder, and not from where the command was given.
    folders = [str(pathlib.Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    # No cache: programs for chips that are not here can't be read back from it.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with _each_minute(tell):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cbjax.estimate.compile"],
            input=json.dumps(request),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        why = {
            "SIGSEGV": "; a deep network needs a large stack: `ulimit -Hs unlimited` removes the limit",
            "SIGKILL": "; it may have run out of this machine's memory",
        }.get(name, "")
        raise CompileError(f"the TPU compiler died of {name}{why}{_tail(done.stderr)}")
    if done.returncode:
        raise CompileError(f"the TPU compiler failed{_tail(done.stderr)}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise configs.ConfigError(answer["error"])
    return answer


@contextlib.contextmanager
def _each_minute(tell):
    """Tells each minute that the compiler is at work."""
    over = threading.Event()

    def wait():
        for minute in itertools.count(1):
            if over.wait(MINUTE):
                return
            tell(f"still compiling after {minute} min")

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tail(text: str, lines: int = 8) -> str:
    return "".join(f"\n  {line[:500]}" for line in text.strip().splitlines()[-lines:])


def _become_compiler() -> None:
    """Raises the stack limit as far as allowed and starts the compiler; compiling deep networks needs a large stack.

    It starts a new program, because a limit holds only from a program's start.
    """
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (most, most))
    os.execv(sys.executable, [sys.executable, "-P", "-m", "cbjax.estimate.tpu_programs"])


if __name__ == "__main__":
    _become_compiler()
