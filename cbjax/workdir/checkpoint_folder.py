"""Manages the folder of a run's checkpoints: which are complete and undamaged, and which are kept or removed.

Each checkpoint has a list of its files' SHA-256 sums. The list is written before Orbax commits, so no checkpoint is
ever without it. Only one process writes here at a time; others may read meanwhile.
"""

import json
from collections.abc import Callable

import orbax.checkpoint as ocp

from cbjax.host import checksums
from cbjax.host.literal_path import LiteralPath
from cbjax.host.storage import is_remote

KEPT = 2  # the newest, and one more in case it gets damaged; for each of them the best checkpoint is kept too
KEPT_DAMAGED = 2
TEMPORARY = ocp.path.atomicity.TMP_DIR_SUFFIX
COMMITTED = ocp.path.atomicity.COMMIT_SUCCESS_FILE


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged, or its checksums are gone."""


class CheckpointFolder:
    """The files of checkpoints: `checkpoints/STEP` in Orbax's layout, `checksums/STEP.json` and `damaged/`.

    Args:
      root: the work directory.
      tell: called with a line for the user about each checkpoint that cannot be used.
      reading: if True, nothing is changed.
      keep_all: if True, no complete checkpoint is deleted.

    Attributes:
      directory: folder of the checkpoints.
      commit: Orbax's class for a checkpoint that is being written there.
    """

    def __init__(self, root: LiteralPath, tell: Callable[[str], None], reading: bool, keep_all: bool = False):
        self.directory, self._checksums, self._damaged = root / "checkpoints", root / "checksums", root / "damaged"
        self.commit = ocp.path.atomicity_defaults.get_default_temporary_path_class(self.directory)
        # A bucket cannot rename a folder in one go. There a last file says that all others are written.
        self._commits_by_file = issubclass(self.commit, ocp.path.atomicity.CommitFileTemporaryPath)
        self._tell, self._reading, self._keep_all = tell, reading, keep_all
        self._unusable: set[int] = set()
        self._sums: dict[str, str] = {}

    def make_ready(self) -> None:
        """Makes the folders, and removes checkpoints that an ended process left half written or half deleted.

        Raises:
          CheckpointError: if there are several checkpoints and no checksums at all.
        """
        if not self._reading:
            self._checksums.mkdir(parents=True, exist_ok=True)
            self.directory.mkdir(parents=True, exist_ok=True)
        whole = self.whole()
        # Asked again, since another process may have deleted them all meanwhile, with their lists.
        if len(whole) > 1 and not any(map(self.is_listed, whole)) and self.whole() == whole:
            raise CheckpointError(
                f"{self._checksums} is missing or empty, so no checkpoint in {self.directory} can be "
                "checked: restore it, or move the checkpoints away to train from the start"
            )
        if not self._reading:
            self.remove_remains()

    def remove_remains(self) -> None:
        """Removes incomplete checkpoints that an ended process or a failed save left."""
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
        """Lists the steps of the committed checkpoints; ignores other files, such as copies that a person made."""
        found = [path for path in self._listed(self.directory) if _is_step(path.name)]
        return sorted(int(path.name) for path in found if self._is_committed(path))

    def _is_committed(self, path):
        return (path / COMMITTED).exists() if self._commits_by_file else path.is_dir()

    def list_of(self, step: int) -> LiteralPath:
        """Returns the file of a checkpoint's checksums; while it is being committed, the file has another name."""
        listed = self._checksums / f"{step}.json"
        unfinished = listed.with_suffix(".part")
        return unfinished if not listed.exists() and unfinished.exists() else listed

    def is_listed(self, step: int) -> bool:
        """Returns whether a checkpoint has checksums, also while another process commits it."""
        listed = self._checksums / f"{step}.json"
        # A commit writes STEP.json before it removes STEP.part, so one of the three looks finds a list.
        return any(path.exists() for path in (listed, listed.with_suffix(".part"), listed))

    def newest_sound(self) -> int | None:
        """Returns the newest step whose checkpoint matches its checksums; moves damaged newer ones aside."""
        while steps := [step for step in self.whole() if step not in self._unusable]:
            if self.is_sound(steps[-1]):
                return steps[-1]
        return None

    def is_sound(self, step: int) -> bool:
        """Returns whether a checkpoint matches its checksums; if not, and it is still there, it is set aside."""
        if self.is_listed(step):
            listed = self.list_of(step)
            problem = checksums.problem(self.directory / str(step), listed)
            if problem is not None and listed != self.list_of(step):
                return self.is_sound(step)  # the checkpoint has just been committed
            if problem is not None and step in self.whole():
                self.set_aside(step, problem)
            return problem is None
        if step not in self.whole():
            return False
        missing = self.list_of(step)
        self._tell(f"checkpoint {step} has no checksums ({missing} is missing), so it is used without a check")
        return True

    def set_aside(self, step: int, problem: str) -> None:
        """Reports that a checkpoint is damaged, and moves it to `damaged/`, which keeps the newest few."""
        self._unusable.add(step)
        moved = "" if self._reading else f": moved to {self._move_aside(step)}"
        self._tell(f"checkpoint {step} is damaged ({problem}){moved}")

    def _move_aside(self, step):
        place = self._damaged / str(step)
        self._damaged.mkdir(exist_ok=True)
        if is_remote(self._damaged):
            (self._damaged / ".folder").touch()  # a bucket has no empty folders, but a move needs an existing folder
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
        # Files at the top are left out, since the commit itself changes them.
        self._sums = {name: checksum for name, checksum in checksums.of_folder(written).items() if "/" in name}
        self._write_list(step, best_step, self._sums, ".part")

    def after_commit(self, step: int, best_step: int | None) -> None:
        """Adds the files that the commit wrote to the list, and deletes checkpoints that are no longer kept."""
        at_the_top = checksums.of_folder(self.directory / str(step), deep=False)
        self._write_list(step, best_step, self._sums | at_the_top, ".json")
        if self._keep_all:
            return
        steps = self.whole()
        # The best of each, since the second newest needs its own best if the newest gets damaged.
        kept = {*steps[-KEPT:], *(self._best_of(newest) for newest in steps[-KEPT:])}
        for old in (step for step in steps if step not in kept):
            self._delete(old)

    def list_files(self, step: int, best_step: int | None) -> None:
        """Writes the checksums of a checkpoint that has none, from its present files."""
        self._write_list(step, best_step, checksums.of_folder(self.directory / str(step)), ".json")

    def _write_list(self, step, best_step, sums, suffix):
        path = self._checksums / f"{step}{suffix}"
        # Written under another name first and renamed when complete. An object in a bucket appears only when complete.
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
        # First it stops being a checkpoint, so after a kill no one finds a half-deleted one.
        if self._commits_by_file:
            (path / COMMITTED).unlink(missing_ok=True)
        else:
            path = path.rename(path.with_name(f"{step}{TEMPORARY}"))
        path.rmtree()
        self._unlist(step)


def _is_step(name: str) -> bool:
    return len(name) < 20 and name.isascii() and name.isdecimal() and str(int(name)) == name
