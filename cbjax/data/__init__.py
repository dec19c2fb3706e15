"""Images in memory: sources, held-out splits, long-tailed subsets, the training order and augmentation."""

from cbjax.data.dataset import Dataset, prepare
from cbjax.data.records import DataError, Split

__all__ = ["DataError", "Dataset", "Split", "prepare"]
