"""Lists one level of a tree that has a folder for each class: the folders, and the images that lie beside them."""

import dataclasses
import os
from typing import Any

from cbjax.data.records import quote
from cbjax.host.storage import is_remote


@dataclasses.dataclass(frozen=True)
class Level:
    """What lies in a folder itself, not below it; hidden names are left out.

    Attributes:
      folders: names of its folders.
      count: number of its files with one of the endings that are looked for.
      example: the first of these files by name; "" if there is none.
    """

    folders: list[str]
    count: int
    example: str

    def beside(self, where: str, noun: str) -> tuple[str, ...]:
        """Returns a line if files lie beside the class folders; `where` begins it, `noun` is what such a file is."""
        if not self.count:
            return ()
        files = f"1 {noun} that is" if self.count == 1 else f"{self.count} {noun}s that are"
        return (f"{where}: left out {files} in no class folder, such as {quote([self.example])}",)

    def unused(self, name: str, noun: str) -> str:
        """Returns a line about a split's folder of this name that has no class folders."""
        files = f"1 {noun}" if self.count == 1 else f"{self.count} {noun}s, such as"
        held = f"; it holds {files} {quote([self.example])}" if self.count else ""
        return f"{name} is not used, as it has no class folders{held}"


def read(place: Any, endings: tuple[str, ...]) -> Level:
    """Lists a folder once and opens no file: the endings alone tell what a file is.

    Args:
      place: the folder, from `files.as_path`.
      endings: of the files to count, in small letters.

    Raises:
      OSError: if the folder cannot be listed.
    """
    folders, count, example = [], 0, ""
    for name, is_folder in _entries(place):
        if name.startswith("."):
            continue
        if is_folder:
            folders.append(name)
        elif name.lower().endswith(endings):
            count, example = count + 1, min(example or name, name)
    return Level(folders, count, example)


def _entries(place):
    """Yields (name, whether it is a folder or a link to one) of all that is in a folder."""
    if is_remote(os.fspath(place)):
        # The first step of a walk is one listing; asking each entry for its kind could be a million requests.
        _, folders, files = next(place.walk(on_error=_fail), (place, [], []))
        yield from ((name.rstrip("/"), True) for name in folders)  # TensorFlow's walk leaves the slash
        yield from ((name, False) for name in files)
        return
    with os.scandir(place) as entries:
        for entry in entries:
            # Most disks tell the kind with the name; only a link needs a look at where it leads.
            yield entry.name, os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _fail(error):
    raise error
