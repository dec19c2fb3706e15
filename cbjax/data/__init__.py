"""Images, in memory or read as they are needed: sources, splits, long-tailed subsets, order and augmentation.

A training step's own augmentation of images that lie on the device is `augment.py`; what brings batches to the devices
is in `training/`. Begin with `dataset.py`, which goes from a config's `data` keys to images and labels.
"""

from cbjax.data.dataset import Dataset, of_config, prepare
from cbjax.data.records import DataError, Encoded, Source, Split

__all__ = ["DataError", "Dataset", "Encoded", "Source", "Split", "of_config", "prepare"]
