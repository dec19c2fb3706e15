"""Images, in memory or read as they are needed: sources, splits, long-tailed subsets, order and augmentation."""

from cbjax.data.dataset import Dataset, prepare
from cbjax.data.records import DataError, Encoded, Split

__all__ = ["DataError", "Dataset", "Encoded", "Split", "prepare"]
