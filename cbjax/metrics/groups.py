"""Groups of classes by their number of training images: many, medium, few."""

from typing import Any

import numpy as np

MANY, FEW = 100, 20  # more training images than MANY, fewer than FEW
SMALL = 200  # if the largest class has fewer images, groups are thirds


def class_groups(counts: Any) -> dict[str, np.ndarray]:
    """Groups classes by their number of training images.

    "many" has more than 100 images, "medium" 20 to 100, "few" fewer than 20. If the largest class has under 200 images,
    the groups are thirds of the classes by rank instead. If 3 does not divide C, one extra class goes to the middle
    group, or two go to the outer groups. Classes with equal counts are in one group, that of their middle rank.

    Args:
      counts: [C] training images.

    Returns:
      Group -> class indices in rising order; empty groups are left out.

    Raises:
      ValueError: if counts are not [C].
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.size == 0:
        raise ValueError(f"counts must be [C], one number of images a class, got shape {counts.shape}")
    if counts.max() < SMALL:
        larger = (counts[None, :] > counts[:, None]).sum(axis=1)
        equal = (counts[None, :] == counts[:, None]).sum(axis=1)
        # The middle rank of equal classes, counted in half ranks to stay a whole number.
        group = 3 * (2 * larger + equal) // (2 * counts.size)
    else:
        group = np.where(counts > MANY, 0, np.where(counts >= FEW, 1, 2))
    members = {name: np.flatnonzero(group == place) for place, name in enumerate(("many", "medium", "few"))}
    return {name: classes for name, classes in members.items() if classes.size}
