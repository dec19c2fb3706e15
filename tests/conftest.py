"""Strict settings for every test: eight CPU devices, no silent rank promotion, slow tests only when asked for."""

import gc
import importlib.metadata
import os
import pathlib
import sys

if "PYTEST_XDIST_WORKER" not in os.environ:  # which has them from the process that started it
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
    if "--slow" not in sys.argv:  # programs compile in a third of the time; with --slow as they do for users
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        flags += ["--xla_cpu_parallel_codegen_split_count=1"]
        if importlib.metadata.version("jaxlib") == "0.10.2":  # an unknown flag kills the process
            flags += ["--xla_cpu_use_fusion_emitters=false"]
    os.environ["XLA_FLAGS"] = " ".join(flags)
os.environ["JAX_PLATFORMS"] = "cpu"
# Else each process that a test starts compiles the sources again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Many tests compile the same programs, in this process and in those that they start.
COMPILED = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)

import hypothesis
import jax
import pytest

from cbjax.training import programs

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# The same examples in each run, so that a change is judged by what it changed. Time depends on the machine.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run what is too long for every change")


# A file is tested by one process, which makes its fixtures once; those that take longest come first, so that no process
# ends long after the others.
LONGEST = (
    *("test_processes", "test_sweep", "test_methods", "test_resume", "test_models", "test_report", "test_run"),
    *("test_losses", "test_paper_table", "test_mw_net", "test_recipes", "test_resnet_imagenet"),
)


def pytest_collection_modifyitems(config, items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))


# JAX's traces are many small objects, and a worker has millions: looking for cycles as often as usual is a sixth of the
# time.
gc.freeze()
gc.set_threshold(100_000, 50, 50)


# With thousands of programs in a process, compiling and freeing each takes many times as long.
MOST_PROGRAMS = 250
_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **more: _compiled.append(name) if name.endswith("backend_compile_duration") else None
)


def forget_programs():
    programs.forget()
    jax.clear_caches()
    _compiled.clear()


@pytest.fixture(autouse=True)
def few_programs():
    """Forgets programs after a test once there are many."""
    yield
    if len(_compiled) > MOST_PROGRAMS:
        forget_programs()


@pytest.fixture(autouse=True, scope="module")
def own_programs():
    """Forgets a module's programs: no other module has the same."""
    yield
    forget_programs()


@pytest.fixture
def prepared_data():
    """The TFDS folder of CBJAX_DATA_DIR; tests of real data are skipped without it."""
    folder = os.environ.get("CBJAX_DATA_DIR")
    if not folder:
        pytest.skip("needs real data: CBJAX_DATA_DIR must name a TFDS folder with mnist, cifar10 and cifar100")
    return folder
