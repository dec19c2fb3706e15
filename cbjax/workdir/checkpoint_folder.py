"""The folder of a run's checkpoints: which are whole and sound, which are kept, and what becomes of the others.

Each checkpoint has a list of its files' SHA-256 sums, written before Orbax commits it, so that none is ever there
without its list. Only one process writes here at a time; others may read beside it.
"""

import json
from collections.abc import Callable

import orbax.checkpoint as ocp

from cbjax.host import checksums
from cbjax.host.literal_path import LiteralPath
from cbjax.host.storage import is_remote

KEPT = 2  # the newest, and one more in case it gets damaged; besides, the best that each of them knows
KEPT_DAMAGED = 2
TEMPORARY = ocp.path.atomicity.TMP_DIR_SUFFIX
COMMITTED = ocp.path.atomicity.COMMIT_SUCCESS_FILE


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or separated from its checksums."""


class CheckpointFolder:
    """The files of checkpoints: `checkpoints/STEP` in Orbax's layout, `checksums/STEP.json` and `damaged/`.

    Args:
      root: the work directory.
      tell: called with a line for the user for each checkpoint that could not be used.
      reading: True changes nothing.

    Attributes:
      directory: of the checkpoints.
      commit: Orbax's class of a checkpoint that is being written there.
    """

    def __init__(self, root: LiteralPath, tell: Callable[[str], None], reading: bool):
        self.directory, self._checksums, self._damaged = root / "checkpoints", root / "checksums", root / "damaged"
        self.commit = ocp.path.atomicity_defaults.get_default_temporary_path_class(self.directory)
        # In a bucket, where nothing is renamed at once, a last file says that the others are there.
        self._commits_by_file = issubclass(self.commit, ocp.path.atomicity.CommitFileTemporaryPath)
        self._tell, self._reading = tell, reading
        self._unusable: set[int] = set()
        self._sums: dict[str, str] = {}

    def make_ready(self) -> None:
        """Makes the folders, and removes what an ended process left of checkpoints that it was writing or deleting.

        Raises:
          CheckpointError: if there are several checkpoints and no checksums at all.
        """
        if not self._reading:
            self._checksums.mkdir(parents=True, exist_ok=True)
            self.directory.mkdir(parents=True, exist_ok=True)
        whole = self.whole()
        if len(whole) > 1 and not any(self.list_of(step).exists() for step in whole):
            raise CheckpointError(
                f"{self._checksums} is missing or empty, and without it no checkpoint in {self.directory} can be "
                "checked: restore it, or move the checkpoints away to train from the start"
            )
        if not self._reading:
            self.remove_remains()

    def remove_remains(self) -> None:
        """Removes what an ended process, or a save that failed, left of a checkpoint."""
        whole = self.whole()
        for path in self._listed(self.directory):
            name = path.name.split(TEMPORARY)[0]
            if not _is_step(name) or not path.is_dir() or (path.name == name and int(name) in whole):
                continue
            if path.name == name and not any(int(name) < step for step in whole):
                place = self._move_aside(int(name))
                self._tell(f"checkpoint {name} was not finished when its process ended: moved to {place}")
            else:
                path.rmtree()
        for path in self._listed(self._checksums):
            if _is_step(path.stem) and (int(path.stem) not in whole or path.suffix == ".tmp"):
                path.unlink()

    def _listed(self, folder):
        # A bucket has no empty folders.
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def whole(self) -> list[int]:
        """Lists the steps of the committed checkpoints; other files, such as a file manager's copies, are left out."""
        found = [path for path in self._listed(self.directory) if _is_step(path.name)]
        return sorted(int(path.name) for path in found if self._is_committed(path))

    def _is_committed(self, path):
        return (path / COMMITTED).exists() if self._commits_by_file else path.is_dir()

    def list_of(self, step: int) -> LiteralPath:
        """Returns where the checksums are; under a name of their own while the checkpoint is being committed."""
        listed = self._checksums / f"{step}.json"
        unfinished = listed.with_suffix(".part")
        return unfinished if not listed.exists() and unfinished.exists() else listed

    def newest_sound(self) -> int | None:
        """Returns the newest step whose checkpoint is what its checksums say; sets the others aside."""
        while steps := [step for step in self.whole() if step not in self._unusable]:
            if self.is_sound(steps[-1]):
                return steps[-1]
        return None

    def is_sound(self, step: int) -> bool:
        """Says whether a checkpoint is what its checksums say; one that is not is set aside, if it is still there."""
        listed = self.list_of(step)
        if listed.exists():
            problem = checksums.problem(self.directory / str(step), listed)
            if problem is not None and listed != self.list_of(step):
                return self.is_sound(step)  # the checkpoint has just been committed
            if problem is not None and step in self.whole():
                self.set_aside(step, problem)
            return problem is None
        if step not in self.whole():
            return False
        self._tell(
            f"checkpoint {step} has no checksums ({listed} is missing), so its bytes cannot be checked: it is used as "
            "it is"
        )
        return True

    def set_aside(self, step: int, problem: str) -> None:
        """Says that a checkpoint is damaged, and moves it to `damaged/`, which keeps the newest few."""
        self._unusable.add(step)
        moved = "" if self._reading else f": moved to {self._move_aside(step)}"
        self._tell(f"checkpoint {step} is damaged ({problem}){moved}")

    def _move_aside(self, step):
        place = self._damaged / str(step)
        self._damaged.mkdir(exist_ok=True)
        if is_remote(self._damaged):
            (self._damaged / ".folder").touch()  # a bucket has no empty folders, and nothing is moved to where none is
        place.rmtree(missing_ok=True)
        if (self.directory / str(step)).is_dir():
            (self.directory / str(step)).rename(place)
        self._unlist(step)
        others = sorted(int(path.name) for path in self._damaged.iterdir() if _is_step(path.name) and path != place)
        for old in others[: 1 - KEPT_DAMAGED]:
            (self._damaged / str(old)).rmtree(missing_ok=True)
        return place

    def before_commit(self, step: int, best_step: int | None, written: LiteralPath) -> None:
        """Lists the checksums of a checkpoint that is written but not committed."""
        # The commit itself changes the files at the top.
        self._sums = {name: checksum for name, checksum in checksums.of_folder(written).items() if "/" in name}
        self._write_list(step, best_step, self._sums, ".part")

    def after_commit(self, step: int, best_step: int | None) -> None:
        """Adds to the list what the commit wrote, and deletes the checkpoints that are not to be kept."""
        at_the_top = checksums.of_folder(self.directory / str(step), deep=False)
        self._write_list(step, best_step, self._sums | at_the_top, ".json")
        steps = self.whole()
        # The best of each: should the newest get damaged, the one before it needs its own.
        kept = {*steps[-KEPT:], *(self._best_of(newest) for newest in steps[-KEPT:])}
        for old in (step for step in steps if step not in kept):
            self._delete(old)

    def list_files(self, step: int, best_step: int | None) -> None:
        """Writes the checksums of a checkpoint that had none, as it is now."""
        self._write_list(step, best_step, checksums.of_folder(self.directory / str(step)), ".json")

    def _write_list(self, step, best_step, sums, suffix):
        path = self._checksums / f"{step}{suffix}"
        # Renamed when it is whole; an object in a bucket is there whole or not at all.
        temporary = path if is_remote(path) else path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"best": best_step, "files": sums}, indent=1))
        if temporary != path:
            temporary.replace(path)
        if suffix == ".json":
            path.with_suffix(".part").unlink(missing_ok=True)

    def _unlist(self, step):
        for suffix in (".json", ".part"):
            (self._checksums / f"{step}{suffix}").unlink(missing_ok=True)

    def _best_of(self, step):
        try:
            return json.loads(self.list_of(step).read_text())["best"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _delete(self, step):
        path = self.directory / str(step)
        # First what makes it a checkpoint, so that a kill or a reader never meets one half of which is gone.
        if self._commits_by_file:
            (path / COMMITTED).unlink(missing_ok=True)
        else:
            path = path.rename(path.with_name(f"{step}{TEMPORARY}"))
        path.rmtree()
        self._unlist(step)


def _is_step(name: str) -> bool:
    return len(name) < 20 and name.isascii() and name.isdecimal() and str(int(name)) == name
