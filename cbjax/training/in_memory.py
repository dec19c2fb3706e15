"""Keeps the arrays that a person trains on in the work directory, from which the run can go on and be evaluated."""

import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cbjax import config as configs
from cbjax.config import ConfigError
from cbjax.data import DataError, arrays
from cbjax.host.storage import is_remote, place_of
from cbjax.host.writers import replace

FILE = "data.npz"


def keep(config: ConfigDict, given: Mapping[str, Any], workdir: str | os.PathLike) -> ConfigDict:
    """Writes arrays to data.npz in the work directory, and returns the config with it as data.file.

    Args:
      config: its data.name may be "arrays" or None, its data.file None.
      given: by the names that an .npz has: images, labels, class_names, or train_images, train_labels, test_images …

    Raises:
      ConfigError: if the config names other data, the work directory is remote, or there are several processes.
      DataError: if the arrays do not fit, or the work directory holds a run on others.
    """
    if is_remote(workdir) or jax.process_count() > 1:
        raise ConfigError(
            "arrays in memory are for one process and a local work directory: write them with numpy.savez where all "
            "processes can read them, and set data.name=arrays and data.file"
        )
    if config.data.name not in (None, "arrays") or config.data.file is not None:
        named = config.data.file or config.data.name
        raise ConfigError(f"arrays were given, but the config names other data, {named!r}: leave out one of the two")
    found = {name: _plain(values) for name, values in given.items()}
    arrays.as_source(found)
    path = pathlib.Path(place_of(workdir)) / FILE
    config = config.copy_and_resolve_references()
    config.data.name, config.data.file = "arrays", os.fspath(path)
    configs.check(config)  # before anything is written
    if path.exists() and (path.parent / "config.json").exists():
        if not _same(arrays.read(path), found):
            raise DataError(f"{path.parent} holds a run on other arrays: choose another work directory")
        return config
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **found)
    replace(path, packed.getvalue())
    return config


def _plain(values):
    """Returns an array; strings of a data frame's column, which are Python objects, become NumPy's."""
    array = np.asarray(values)
    if array.dtype == object and all(isinstance(one, str) for one in array.flat):
        array = array.astype(str)
    return array


def _same(kept, given):
    return kept.keys() == given.keys() and all(
        kept[name].dtype == array.dtype and np.array_equal(kept[name], array, equal_nan=array.dtype.kind == "f")
        for name, array in given.items()
    )
