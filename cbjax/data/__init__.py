"""Images, in memory or read as they are needed: sources, splits, long-tailed subsets, order and augmentation.

Begin with `dataset.py`, which turns a config's `data` keys into images and labels. `batches.py` says which images a
step takes. `augment.py` changes images that are on the device already, inside the training step. Code that brings
batches to the devices is in `training/`.
"""

from cbjax.data.dataset import Dataset, of_config, prepare
from cbjax.data.records import DataError, Encoded, Source, Split

__all__ = ["DataError", "Dataset", "Encoded", "Source", "Split", "of_config", "prepare"]
