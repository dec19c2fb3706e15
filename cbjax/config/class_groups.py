"""Finds the classes of the groups in `evaluation.groups`, as indices into the class names of the data."""

from collections.abc import Mapping, Sequence

import numpy as np

from cbjax.config import ConfigError
from cbjax.config.schema import did_you_mean

Groups = Mapping[str, np.ndarray]  # name -> places of its classes, sorted


def resolve(groups: Sequence[tuple[str, Sequence[str | int]]], class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Finds the classes of each group.

    Args:
      groups: a pair (name, classes) for each group, as in `evaluation.groups`. A class is given by its name or by its
        index in `class_names`. A name wins over an index, as in `data.classes`: the class named '9' may not be the
        tenth.
      class_names: [C] names in label order.

    Returns:
      Name -> places in [0, C), in rising order.

    Raises:
      ConfigError: if a class does not exist, or a group names one twice: by its name and by its index.
    """
    places = {name: place for place, name in enumerate(class_names)}
    resolved = {}
    for group, members in groups:
        found = [_place(group, member, places) for member in members]
        if len(set(found)) < len(found):
            again = next(class_names[place] for place in found if found.count(place) > 1)
            raise ConfigError(f"evaluation.groups must name each class once in a group; got {again!r} again in {group}")
        resolved[group] = np.sort(np.array(found, np.int64))
    return resolved


def _place(group, member, places):
    if str(member) in places:
        return places[str(member)]
    if isinstance(member, int) and 0 <= member < len(places):
        return member
    names = ", ".join(list(places)[:20]) + (f" and {len(places) - 20} more" if len(places) > 20 else "")
    raise ConfigError(
        f"evaluation.groups must name classes of the data, or give their index below {len(places)}; got {member!r} in "
        f"{group}; the names are {names}{did_you_mean(str(member), places)}"
    )
