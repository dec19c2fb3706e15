"""TPU generations and slices: published figures of a chip, and the slices that can be rented."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

GIB = 2**30


class TopologyError(ValueError):
    """The slice does not exist; the message lists the slices that do."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip of a generation.

    Attributes:
      name: its generation, as JAX writes it in a topology.
      flops: published peak in bfloat16, FLOP/s.
      hbm_bytes: published memory, bytes.
      usable_bytes: memory that the compiler (libtpu 0.0.42) leaves to a program, bytes.
      hbm_bandwidth: published bandwidth of the memory, bytes/s.
      link_bandwidth: published bandwidth of all links to other chips together, one way, bytes/s; half of the
        bidirectional figure.
      slices: shapes that are offered, in chips.
      larger: whether any other shape of multiples of 4 is offered too.
      options: what `get_topology_desc` needs besides the name, so that a device is a whole chip.

    Source: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e (system architecture, supported configurations).
    """

    name: str
    flops: float
    hbm_bytes: float
    usable_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    slices: tuple[str, ...]
    larger: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v4",
            flops=275e12,
            hbm_bytes=32 * GIB,
            usable_bytes=30.75 * GIB,
            hbm_bandwidth=1200e9,
            link_bandwidth=300e9,
            slices=_CUBES,
            larger=True,
            # Without them a device is one of the two cores of a chip, with half of its memory.
            options={"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1), "num_slices": 1},
        ),
        Chip(
            "v5e",
            flops=197e12,
            hbm_bytes=16 * GIB,
            usable_bytes=15.75 * GIB,
            hbm_bandwidth=819e9,
            link_bandwidth=200e9,
            slices=_FLAT,
        ),
        Chip(
            "v5p",
            flops=459e12,
            hbm_bytes=95.74 * GIB,  # published as 95 GB, which is what the compiler gives
            usable_bytes=95.74 * GIB,
            hbm_bandwidth=2765e9,
            link_bandwidth=600e9,
            slices=_CUBES,
            larger=True,
        ),
        Chip(
            "v6e",
            flops=918e12,
            hbm_bytes=32 * GIB,
            usable_bytes=31.25 * GIB,
            hbm_bandwidth=1638e9,
            link_bandwidth=400e9,
            slices=_FLAT,
        ),
    )
}


def parse_topology(topology: str) -> tuple[Chip, int]:
    """Returns the chip of a slice such as "v5e:4x8", and the number of chips.

    Raises:
      TopologyError: if the generation is unknown or has no such slice.
    """
    generation, _, shape = topology.partition(":")
    if generation not in CHIPS:
        known = "; ".join(f"{chip.name}: {', '.join(chip.slices)}" for chip in CHIPS.values())
        raise TopologyError(
            f"topology={topology!r}: must be GENERATION:SHAPE, such as v5e:4x8, of a known generation ({known})"
        )
    chip = CHIPS[generation]
    if shape not in chip.slices and not (chip.larger and _is_large(shape)):
        more = " and larger ones whose three sides are multiples of 4, ascending" if chip.larger else ""
        slices = f"{', '.join(chip.slices)}{more}"
        raise TopologyError(f"topology={topology!r}: must be one of {generation}'s slices ({slices}); got {shape!r}")
    return chip, math.prod(int(side) for side in shape.split("x"))


def topology_options(topology: str) -> dict[str, Any]:
    """Returns what `jax.experimental.topologies.get_topology_desc` needs besides the name of a slice."""
    chip, num_chips = parse_topology(topology)
    # A single chip shares its host with others, which is taken to have four otherwise.
    return {**chip.options, **({"chips_per_host_bounds": (1, 1, 1)} if num_chips == 1 else {})}


def _is_large(shape: str) -> bool:
    sides = shape.split("x")
    if len(sides) != 3 or not all(side.isdecimal() for side in sides):
        return False
    lengths = [int(side) for side in sides]
    return lengths == sorted(lengths) and all(length >= 4 and length % 4 == 0 for length in lengths)
