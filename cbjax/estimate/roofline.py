"""Computes what a compiled program costs at least: its collectives from its text, its time from published peaks."""

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cbjax.estimate.tpu import Chip

_BITS = {
    **dict.fromkeys(("s4", "u4"), 4),
    **dict.fromkeys(("pred", "s8", "u8"), 8),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    "c128": 128,
}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast|ragged-all-to-all"
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (?P<result>.*?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\]")


class Collective(NamedTuple):
    """Collectives of one kind and size: the result on one chip, and how often the program has them."""

    kind: str
    size: int  # bytes
    arrays: int
    times: int


class Bound(NamedTuple):
    """Least times of a step in seconds; each as if the other two took no time."""

    compute: float
    memory: float
    links: float

    @property
    def step(self) -> float:
        """The time if all three overlap: no program on these chips is faster."""
        return max(self)

    @property
    def not_overlapped(self) -> float:
        """The time if the chips wait for the links after computing."""
        return max(self.compute, self.memory) + self.links


def read_collectives(text: str) -> list[Collective]:
    """Lists the collectives of a program, largest first.

    A collective in the body of a loop counts once, so a dispatch of many steps shows the collectives of one step.

    Args:
      text: the compiled program (`Compiled.as_text`). An asynchronous collective is counted where it starts.
    """
    counts: collections.Counter = collections.Counter()
    for line in text.splitlines():
        match = _COLLECTIVE.match(line)
        if match is None:
            continue
        arrays = [_bytes(*array) for array in _ARRAY.findall(match["result"]) if array[0] in _BITS]
        # These starts return (operands, results, …); the start of an all-reduce returns only results.
        if match["start"] and match["kind"] in ("all-gather", "collective-permute") and len(arrays) >= 2:
            arrays = arrays[1:2]
        counts[match["kind"], sum(arrays), len(arrays)] += 1
    found = [Collective(kind, size, arrays, times) for (kind, size, arrays), times in counts.items()]
    return sorted(found, key=lambda one: (-one.size, one.kind))


def bound(
    chip: Chip, num_chips: int, *, flops: float, bytes_accessed: float, collectives: Sequence[Collective]
) -> Bound:
    """Returns the least times of a step on a chip, from its share of the work.

    compute = FLOPs / peak; memory = bytes / HBM's bandwidth; links = bytes that a chip must send / bandwidth of its
    links. All links of a chip are assumed to work at once, at their published rate, which no program reaches.

    Args:
      chip: the generation.
      num_chips: number of chips in the slice.
      flops: FLOPs of one step on one chip.
      bytes_accessed: bytes that one step reads and writes in one chip's memory.
      collectives: collectives of one step.
    """
    sent = sum(one.times * one.size * _share_sent(one.kind, num_chips) for one in collectives)
    return Bound(flops / chip.flops, bytes_accessed / chip.hbm_bandwidth, sent / chip.link_bandwidth)


def bound_of(program: Mapping[str, Any], chip: Chip, num_chips: int) -> Bound:
    """Returns `bound` for a program that fits, from the figures of `tpu_programs.measure`."""
    collectives = [Collective(**one) for one in program["collectives"]]
    return bound(chip, num_chips, flops=program["flops"], bytes_accessed=program["bytes"], collectives=collectives)


def _share_sent(kind: str, num_chips: int) -> float:
    """Returns the bytes that a chip sends in a ring for each byte of result; for an all-reduce no way needs fewer."""
    share = (num_chips - 1) / num_chips
    if kind == "all-reduce":
        return 2 * share
    if kind == "reduce-scatter":  # the result is one of n parts
        return num_chips - 1
    return 1.0 if kind.startswith("collective") else share


def largest_batch(used: float, fixed: float, available: float, images: int, *, multiple: int = 1) -> int:
    """Estimates how many images a chip can hold, from a number of images that is too large.

    All bytes beyond `fixed` are assumed to grow with the images. A twentieth is kept free, because the compiler lays
    out other sizes differently. A result of 8 or more is a multiple of 8, like the chip's tiles.

    Args:
      used: bytes that `images` images need in all.
      fixed: bytes that do not depend on the number of images.
      available: bytes that are available.
      images: number of images, at least 1.
      multiple: number that must divide the result.

    Returns:
      At least 0 (too few fit), and below `images`.
    """
    an_image = max(used - fixed, 1.0) / images
    most = max(min(math.floor(0.95 * (available - fixed) / an_image), images - 1), 0)
    whole = math.lcm(8, multiple)
    return most - most % (whole if most >= whole else multiple)


def read_out_of_memory(message: str) -> tuple[float, float] | None:
    """Returns (needed, available) bytes from the compiler's complaint; None if it is about something else."""
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    sizes = [
        (float(number), unit)
        for pattern in (
            r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)",
            r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm",
        )
        for found in re.findall(pattern, message)
        for number, unit in (found[:2], found[2:])
    ]
    if len(sizes) < 2:
        return None
    needed, available = (number * 2 ** (10 * (1 + "KMGT".index(unit))) for number, unit in sizes[:2])
    return needed, available


def _bytes(kind: str, shape: str) -> int:
    count = math.prod(int(length) for length in shape.split(",") if length)
    return count * _BITS[kind] // 8
