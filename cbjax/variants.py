"""Describes the runs of a sweep: lists of variants, combined by `product`, `zipped` and `chain`.

A variant is a set of config keys with values, and a name on one or more axes ("method", "imbalance", "seed"). Tables,
folders and messages use these names. A file in `configs/sweeps` returns a `Sweep` made of variants.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cbjax.config.schema import show
from cbjax.report.sweep_table import Table

MOST_RUNS = 100_000  # more runs must be a slip, and would take all memory


@dataclasses.dataclass(frozen=True)
class Variant:
    """One choice.

    Attributes:
      labels: axis -> the variant's name on it.
      overrides: dotted config key -> value. The key "config" names the configuration to change, if not the sweep's;
        "method" stands for the keys of a method, as `--config.method=NAME` does.
    """

    labels: Mapping[str, str]
    overrides: Mapping[str, Any]


def choices(axis: str, options: Mapping[str, Mapping[str, Any]]) -> list[Variant]:
    """Lists variants given by name: {"CE": {}, "CDB": {"weights.name": "difficulty"}} on the axis "method"."""
    if not isinstance(options, Mapping) or not all(isinstance(one, Mapping) for one in options.values()):
        raise ValueError(f"choices must be {{name: {{key: value}}}}, with {{}} for no change; got {show(options)}")
    return [Variant({axis: str(name)}, dict(overrides)) for name, overrides in options.items()]


def values(axis: str, key: str, numbers: Iterable[Any], label: str = "{}") -> list[Variant]:
    """Lists variants of one key, each named by its value as `label` writes it: "beta {}" gives "beta 0.999"."""
    if isinstance(numbers, str) or not isinstance(numbers, Iterable):
        raise ValueError(f"the values of {key} must be a list, such as (10, 50); got {show(numbers)}")
    listed = list(itertools.islice(numbers, MOST_RUNS + 1))
    _check_count(len(listed))
    try:
        return [Variant({axis: label.format(number)}, {key: number}) for number in listed]
    except (AttributeError, LookupError, ValueError):
        raise ValueError(
            f"the label of {key} must be a text with {{}} where the value goes, such as 'beta {{}}'; got {show(label)}"
        ) from None


def seeds(count: int, first: int = 0) -> list[Variant]:
    """Lists `count` variants of the key "seed" on the axis "seed", from `first` on."""
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"the number of seeds must be a whole number of at least 1; got {show(count)}")
    _check_count(count)
    return values("seed", "seed", range(first, first + count))


def product(*lists: Sequence[Variant]) -> list[Variant]:
    """Combines each variant of each list with each variant of the others; the last list changes fastest.

    Raises:
      ValueError: if two lists name the same axis or the same key, or one is not a list of variants.
    """
    lists = tuple(map(listed, lists))
    _check_count(math.prod(map(len, lists)))
    return [_together(variants) for variants in itertools.product(*lists)]


def zipped(*lists: Sequence[Variant]) -> list[Variant]:
    """Combines the first variant of each list, the second ones, and so on.

    Raises:
      ValueError: if the lists are not equally long, two of them name the same axis or the same key, or one is not a
        list of variants.
    """
    lists = tuple(map(listed, lists))
    if len({len(one) for one in lists}) > 1:
        raise ValueError(f"zipped lists must be equally long; got lengths {', '.join(str(len(one)) for one in lists)}")
    return [_together(variants) for variants in zip(*lists, strict=True)]


def chain(*lists: Sequence[Variant]) -> list[Variant]:
    """Joins lists of variants, one after another; raises ValueError if one is not a list of variants."""
    return list(itertools.chain(*map(listed, lists)))


def listed(variants: Any) -> list[Variant]:
    """Returns variants as a list; raises ValueError if they are not variants."""
    them = list(itertools.islice(variants, MOST_RUNS + 1)) if isinstance(variants, Iterable) else [variants]
    if isinstance(variants, str) or not isinstance(variants, Iterable) or not all(_is_variant(one) for one in them):
        raise ValueError(
            f"must be a list of variants, as from choices(), values() or seeds(), or [Variant(…)]; got {show(variants)}"
        )
    _check_count(len(them))
    return them


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a file in `configs/sweeps` returns.

    Attributes:
      config: the configuration that every run begins with, as for `config.load`. A relative path is looked for in the
        folder of the sweep's file first.
      variants: the changes of each run, from `cbjax.variants`.
      table: the layout of the results; None for the usual comparison of methods.
      sizes: "num_classes", "num_images" (for training) and "image_size" for the estimate of a dry run, if `data.name`
        does not give them.
    """

    config: str
    variants: Sequence[Variant]
    table: Table | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _together(variants: Sequence[Variant]) -> Variant:
    labels: dict[str, str] = {}
    overrides: dict[str, Any] = {}
    for variant in variants:
        for known, new, what in ((labels, variant.labels, "axis"), (overrides, variant.overrides, "key")):
            if twice := sorted(known.keys() & new.keys()):
                raise ValueError(f"two of the combined lists give the {what} {twice[0]}: leave it in one of them")
            known.update(new)
    return Variant(labels, overrides)


def _check_count(count: int) -> None:
    if count > MOST_RUNS:
        raise ValueError(f"a sweep can have at most {MOST_RUNS} runs; got more")


def _is_variant(one: Any) -> bool:
    return isinstance(one, Variant) and isinstance(one.labels, Mapping) and isinstance(one.overrides, Mapping)
