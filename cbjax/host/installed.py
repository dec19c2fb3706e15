"""Which of the packages that training and reports need are not installed."""

import importlib.util

# What each package of the extra [train] is imported as. One that some machines do without is not among them.
TRAIN = (
    "array_record",
    "clu",
    "etils",
    "grain",
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
    """Raises ImportError with the command that installs what `what` needs, if some of it is missing."""
    missing = [name for name in TRAIN if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'{what} needs what pip install "cbjax[train]" brings; missing here: {", ".join(missing)}')
