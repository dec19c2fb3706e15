"""A trace of some steps of training, for TensorBoard's profiler or Perfetto."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

SKIPPED = 2  # dispatches at the start of a process: compilation, and the first of its kind


@contextlib.contextmanager
def trace(
    advance: Callable[..., Any], steps: int, folder: pathlib.Path, shown: Any, tell: Callable[[str], None]
) -> Iterator[Callable[..., Any]]:
    """Yields an `advance` (see `loop.Plan`) that writes one trace: whole dispatches, at least `steps` steps.

    A run that ends earlier has a shorter trace, or none if it ends before its third dispatch. `shown` is the folder as
    messages name it. If the work directory is in a bucket, `folder` is sent there.
    """
    dispatches, traced, running = 0, 0, False

    def stop():
        nonlocal running
        running = False
        jax.profiler.stop_trace()
        tell(f"trace of {traced} steps: {shown}")

    def traced_advance(state, first, last):
        nonlocal dispatches, traced, running
        dispatches += 1
        if dispatches == SKIPPED + 1:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(folder))
            running = True
        state, metrics = advance(state, first, last)
        if running:
            traced += last - first
            if traced >= steps:
                jax.block_until_ready(metrics)
                stop()
        return state, metrics

    try:
        yield traced_advance
    finally:
        if running:
            stop()
        elif not traced:
            tell(
                f"no trace: training ended within {SKIPPED} dispatches, which are not traced; more epochs or "
                "--config.steps_per_dispatch=1 give more of them"
            )
