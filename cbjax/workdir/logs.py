"""The logs of a run: JSON lines and TensorBoard's event file, each row once however often the run is resumed."""

import pathlib
from collections.abc import Callable, Mapping, Sequence

from cbjax.host.writers import JsonLinesWriter, MultiWriter, TensorBoardWriter, Writer, read_rows, rewrite
from cbjax.types import Row, Run
from cbjax.workdir.memory import timeless

LOGS = ("metrics", "per_class", "class_weights")


class Logs:
    """The logs of a run: files of JSON lines, one for each of LOGS, and TensorBoard's event file.

    Opening them makes the files equal to the run's history, so that a resumed run has each row once; rows that are
    already there keep what the clock said of them. `written` is called after each `write`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        history: Mapping[str, Sequence[Row]],
        tensorboard: bool,
        written: Callable[[], None] = lambda: None,
    ):
        self._workdir, self._report_written = workdir, written
        self._writers: dict[str, Writer] = {}
        self._written: dict[str, int] = {}
        for name in LOGS:
            path = workdir / f"{name}.jsonl"
            rows = _with_times(history[name], _readable_rows(path))
            rewrite(path, rows)
            files: list[Writer] = [JsonLinesWriter(path)]
            if name == "metrics" and tensorboard:
                files.append(TensorBoardWriter(workdir, rows))
            self._writers[name] = MultiWriter(files)
            self._written[name] = len(rows)

    def write(self, run: Run) -> None:
        """Writes the rows of the run's history that are not in the files yet."""
        for name, writer in self._writers.items():
            for row in run.memory.history[name][self._written[name] :]:
                writer.write(row)
            self._written[name] = len(run.memory.history[name])
        self._report_written()

    def train_seconds(self) -> float:
        """Adds up the time that training took, over all processes that took part.

        Evaluation does not count, nor do steps that a kill undid.
        """
        return sum(row.get("time/train_seconds", 0.0) for row in read_rows(self._workdir / "metrics.jsonl"))

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


def is_log_of(path: pathlib.Path, history: Sequence[Row]) -> bool:
    """Says whether a file has the rows of a history, and after them nothing but what the end of a run adds."""
    rows = [timeless(row) for row in _readable_rows(path)]
    return rows[: len(history)] == [timeless(row) for row in history] and all("step" in row for row in rows)


def _readable_rows(path):
    # The history in the checkpoint is what counts; the file only adds what the clock said.
    try:
        return read_rows(path)
    except (OSError, ValueError):
        return []


def _with_times(history, rows):
    """Returns the history's rows. A row that is equal but for its times is taken from `rows`, which have the times."""
    kept = [row if timeless(row) == timeless(past) else past for past, row in zip(history, rows, strict=False)]
    return [*kept, *history[len(kept) :]]
