"""How a batch may be cut: over devices, into parts, and into groups of BatchNorm."""

from collections.abc import Iterator, Mapping
from typing import Any


def divisible(key: str, batch_size: int, num_devices: int) -> Iterator[str]:
    """Yields a message if the batch does not divide evenly over the devices."""
    if batch_size % num_devices:
        below = batch_size - batch_size % num_devices
        sizes = " or ".join(str(size) for size in (below, below + num_devices) if size)
        fewer = next(n for n in range(min(batch_size, num_devices - 1), 0, -1) if batch_size % n == 0)
        yield (
            f"{key} must be a multiple of the number of devices, {num_devices}; got {batch_size}: "
            f"use {sizes}, or devices={fewer}"
        )


def shares(values: Mapping[str, Any], num_devices: int) -> Iterator[str]:
    """Yields a message if a device cannot cut its share of a batch as the keys say."""
    if values["batch_size"] % num_devices:
        yield from divisible("batch_size", values["batch_size"], num_devices)
        return
    share, parts = values["batch_size"] // num_devices, values["optim.accumulation"]
    of_device = f"{share} images that each device gets from batch_size={values['batch_size']}"
    if share % parts:
        yield f"optim.accumulation must divide the {of_device}; got {parts}"
        return
    group = values["model.batch_norm_size"]
    if isinstance(group, int) and share // parts % group:
        each = f" in each of {parts} parts, {share // parts}" if parts > 1 else ""
        yield f"model.batch_norm_size must divide the {of_device}{each}; got {group}"
