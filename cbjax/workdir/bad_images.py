"""Keeps the list of images that a run could not read and skipped."""

import json
import pathlib
from collections.abc import Callable

from cbjax.host.output import say
from cbjax.host.writers import naming, read_rows
from cbjax.parallel import processes


class BadImages:
    """The list bad_images.jsonl: images that any process skipped, each once.

    A single process lists an image at once. Several processes keep what they find until all call `share`; then process
    0 writes it. Without a work directory (None) images are only printed.
    """

    def __init__(self, workdir: pathlib.Path | None, written: Callable[[], None] = lambda: None):
        self._path = None if workdir is None else workdir / "bad_images.jsonl"
        self._listed = set(_images(self._path)) if self._path else set()
        self._found: dict[str, str] = {}
        self._report_written = written

    def add(self, name: str, reason: str) -> None:
        """Notes an image; does nothing if it is listed already."""
        if name not in self._listed:
            self._found[name] = reason
            if processes.count() == 1:
                self.share()

    def share(self) -> None:
        """Lists and prints what all processes found since the last call. Every process must call it."""
        found = {name: reason for part in processes.from_all(self._found) for name, reason in part.items()}
        self._found = {}
        new = {name: reason for name, reason in found.items() if name not in self._listed}
        self._listed |= new.keys()
        if not new or not processes.is_first():
            return
        where = f", listed in {self._path}" if self._path else ""
        for name, reason in new.items():
            say(f"skipped {name}: {reason}{where}")
        if self._path:
            with naming(self._path), open(self._path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps({"image": name, "reason": reason}) + "\n" for name, reason in new.items())
            self._report_written()


def _images(path):
    try:
        return [row["image"] for row in read_rows(path)]
    except (OSError, ValueError):  # the list is not there yet, or is damaged
        return []
