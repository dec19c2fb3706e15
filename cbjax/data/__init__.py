"""Images, in memory or read as they are needed: sources, splits, long-tailed subsets, order and augmentation."""

from cbjax.data.dataset import Dataset, of_config, prepare
from cbjax.data.records import DataError, Encoded, Source, Split

__all__ = ["DataError", "Dataset", "Encoded", "Source", "Split", "of_config", "prepare"]
