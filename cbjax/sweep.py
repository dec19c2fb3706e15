"""Many runs, one after another in one process; finished ones are skipped: the same command goes on after a kill."""

import os
import pathlib
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from cbjax import processes
from cbjax import workdir as workdirs
from cbjax.loop import NonFiniteLoss
from cbjax.report import report
from cbjax.run import train


def sweep(
    runs: Sequence[tuple[str, ConfigDict]], workdir: str | os.PathLike, tell: Callable[[str], None] = print
) -> tuple[pathlib.Path, dict[str, str]]:
    """Trains each run in `workdir/NAME`, then reports on all of them in `workdir`.

    Args:
      runs: (name, config) of each run, as from `config.load_sweep`.
      workdir: the folder of all runs.
      tell: called with a line for each run.

    Returns:
      The path of the report, and name -> error of the runs that diverged; those don't stop the others.

    Raises:
      ConfigError: before anything is trained, if a work directory holds a run of another config.
    """
    place = pathlib.Path(workdir).expanduser().absolute()
    finished = processes.from_first(
        lambda: [name for name, config in runs if workdirs.is_finished(place / name, config)]
    )
    if not processes.is_first():
        tell = _say_nothing
    failed: dict[str, str] = {}
    for number, (name, config) in enumerate(runs, start=1):
        if name in finished:
            tell(f"run {number} of {len(runs)}, {name}: finished before")
            continue
        tell(f"run {number} of {len(runs)}, {name}:")
        try:
            train(config, place / name)
        except NonFiniteLoss as error:
            failed[name] = str(error)
            tell(f"run {name} failed: {error}")
    if processes.is_first():
        report([place / name for name, _ in runs], place)
    return place / "report.md", failed


def _say_nothing(line: str) -> None:
    """Of several processes the first one speaks."""
