"""Checks of a config that can be made only once its data are known."""

from ml_collections import ConfigDict

from cbjax import groups
from cbjax.config import ConfigError
from cbjax.config_schema import COUNT_WEIGHTS
from cbjax.data import Dataset


def check_data(config: ConfigDict, dataset: Dataset) -> None:
    """Checks what can be said only once the data are known.

    Raises:
      ConfigError: with the key, the rule, what came, and what to do.
    """
    size = len(dataset.train.labels)
    if config.batch_size > size:
        raise ConfigError(
            f"batch_size: must be at most the number of training images; got {config.batch_size} for {size} images"
        )
    if config.weights.name == "difficulty" and dataset.validation is None:
        raise ConfigError(
            "weights.name='difficulty' needs held-out validation images to measure each class on, and these data have "
            "none; set data.validation to a number or a fraction per class, such as data.validation=0.1"
        )
    groups.resolve(config.evaluation.groups, dataset.class_names)
    side = min(dataset.train.images.shape[1:3])
    if config.data.crop_padding >= side:
        raise ConfigError(f"data.crop_padding: must be below the images' side, {side}; got {config.data.crop_padding}")
    empty = [name for name, count in zip(dataset.class_names, dataset.counts, strict=True) if count == 0]
    if empty and config.weights.name in COUNT_WEIGHTS and config.weights.zero_count == "error":
        raise ConfigError(
            f"weights.name={config.weights.name!r}: a class without training images has no weight, and there are "
            f"{len(empty)}: {', '.join(empty[:10])}; weights.zero_count=ignore gives them weight 0"
        )
    for name, split in (("validation", dataset.validation), ("test", dataset.test)):
        if dataset.multi_label and split is not None and not split.labels.any():
            raise ConfigError(f"data.{name}: none of the {len(split.labels)} images has a label; hold out more")
    if dataset.multi_label and config.loss.name == "softmax":
        raise ConfigError("loss.name='softmax' needs one label an image, and these are multi-hot; use sigmoid or focal")
    if dataset.multi_label and config.loss.mean == "weight_sum":
        raise ConfigError(
            "loss.mean='weight_sum' needs one label an image, and these are multi-hot; use loss.mean=batch"
        )
