"""A trace of some steps of training, for TensorBoard's profiler or Perfetto."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

SKIPPED = 2  # dispatches at the start of a process: compilation, and the first of its kind


def trace(
    advance: Callable[..., Any], steps: int, folder: pathlib.Path, tell: Callable[[str], None]
) -> Callable[..., Any]:
    """Returns `advance` (see `loop.Plan`), which writes one trace of at least `steps` steps, whole dispatches, once.

    A run that ends before its third dispatch leaves none.
    """
    dispatches, traced = 0, 0

    def traced_advance(state, first, last):
        nonlocal dispatches, traced
        dispatches += 1
        if traced >= steps or dispatches <= SKIPPED:
            return advance(state, first, last)
        if traced == 0:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(folder))
        state, metrics = advance(state, first, last)
        traced += last - first
        if traced >= steps:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            tell(f"trace of {traced} steps: {folder}")
        return state, metrics

    return traced_advance
