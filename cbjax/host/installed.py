"""Checks that the packages that training and reports need are installed."""

import importlib.util

# Import names of the packages in the extra [train], except packages that some machines lack.
TRAIN = (
    "argcomplete",
    "array_record",
    "clu",
    "etils",
    "grain",
    "markdown_it",
    "matplotlib",
    "ml_collections",
    "orbax",
    "PIL",
    "rich",
    "safetensors",
    "simplejpeg",
    "sklearn",
    "tensorboardX",
    "tensorflow_datasets",
)


def check(what: str) -> None:
    """Raises ImportError, with the command to install them, if packages that `what` needs are missing."""
    missing = [name for name in TRAIN if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'{what} needs what pip install "cbjax[train]" brings; missing here: {", ".join(missing)}')
