"""XLA's flags that the command sets before the backend starts; importing cbjax changes no environment."""

import importlib.metadata
import os

from cbjax.config import ConfigError

# By default XLA sends convolutions on CPU to a library whose filter gradient is half as fast as its own; reductions and
# element-wise operations stay with that library. An unknown flag kills the process, hence the list of versions.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_ELTWISE"
CPU_FLAG_TESTED_WITH = ("0.10.2",)
DETERMINISTIC_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


def set_flags(deterministic: bool) -> None:
    """Adds to the user's own XLA_FLAGS what they do not say themselves; call it before JAX's first computation."""
    flags = []
    if importlib.metadata.version("jaxlib") in CPU_FLAG_TESTED_WITH:
        flags.append(CPU_FLAG)
    if deterministic:
        flags.extend(DETERMINISTIC_FLAGS)
    present = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in flags if flag.split("=")[0] not in present]
    os.environ["XLA_FLAGS"] = " ".join([present, *missing]).strip()


def check_deterministic(platform: str) -> None:
    """Raises ConfigError unless a GPU, which adds up in any order, was told to use one; other devices always do."""
    missing = [flag for flag in DETERMINISTIC_FLAGS if flag not in os.environ.get("XLA_FLAGS", "")]
    if platform == "gpu" and missing:
        raise ConfigError(
            f"deterministic=True: needs XLA_FLAGS='{' '.join(missing)}' in the environment before JAX starts; the cbjax "
            "command sets it"
        )
