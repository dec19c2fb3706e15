"""Orbax checkpoints of everything that training changes, checked byte for byte before they are used.

Orbax restores changed bytes without a word, so each finished checkpoint gets a list of its files' SHA-256 sums in
`checksums/STEP.json`. A checkpoint without that list was cut short; one that does not match it is damaged.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cbjax import processes
from cbjax.literal_path import LiteralPath
from cbjax.storage import is_remote, place_of
from cbjax.types import TrainState

KEPT = 2  # the newest, and one more in case it gets damaged; besides, the best that each of them knows
READS = 3  # a reader beside a training process may see a checkpoint vanish


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or separated from its checksums."""


class Checkpoints:
    """The checkpoints of one work directory: `checkpoints/STEP` in Orbax's layout, `checksums/STEP.json` beside it.

    Of several processes all must call the same methods in the same order; the first one moves and deletes.

    Args:
      workdir: the work directory.
      tell: called with a line for the user for each checkpoint that could not be used.
      reading: True leaves the directory as it is, for a reader beside a training process; False makes it where it is
        missing, and moves what an ended process left unfinished and damaged checkpoints to `damaged/`.

    Raises:
      CheckpointError: if there are checkpoints and no checksums at all.
    """

    def __init__(
        self, workdir: str | os.PathLike, tell: Callable[[str], None] = lambda line: None, reading: bool = False
    ):
        root = LiteralPath(place_of(workdir))  # absolute: Orbax refuses others
        self._directory, self._checksums, self._damaged = root / "checkpoints", root / "checksums", root / "damaged"
        self._tell, self._reading = tell, reading
        if not reading:
            processes.from_first(self._make_ready)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=None, create=False, cleanup_tmp_directories=not reading),
        )
        self._pending: tuple[int, int | None] | None = None
        self._saved = time.perf_counter()

    def seconds_since_save(self) -> float:
        """Returns the time since a save began, or since this object was made."""
        return time.perf_counter() - self._saved

    def steps(self) -> list[int]:
        """Lists the steps of the usable checkpoints, oldest first."""
        return processes.from_first(self._listed)

    def save(self, step: int, state: TrainState, memory: dict[str, Any], best_step: int | None = None) -> None:
        """Starts to save; the next `save` or `finish` waits for it, so that writing overlaps with training.

        Args:
          step: the number of steps taken, the checkpoint's name.
          state: the device state.
          memory: the host's state, JSON values only.
          best_step: the step whose checkpoint must be kept besides the newest ones.
        """
        self.finish()
        self._saved = time.perf_counter()
        if step in self.steps():
            return
        # A copy, because the next step takes over the state's memory while Orbax still reads it.
        copy = jax.tree.map(jnp.copy, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(copy), memory=ocp.args.JsonSave(memory)),
            force=True,
        )
        self._pending = (step, best_step)

    def finish(self) -> None:
        """Waits until the last save is on disk, lists its checksums, and deletes what is not to be kept."""
        if self._pending is None:
            return
        step, best_step = self._pending
        self._pending = None
        self._manager.wait_until_finished()
        for old in processes.from_first(lambda: self._list_files(step, best_step)):
            self._manager.delete(old)

    def restore(self, like: TrainState) -> tuple[int, TrainState, dict[str, Any]] | None:
        """Reads the newest undamaged checkpoint onto the devices and in the shapes of `like`.

        Returns:
          (step, state, memory), or None if there is no checkpoint.
        """
        for attempt in range(READS):
            try:
                step = processes.from_first(self._newest_sound)
                if not self._reading:
                    self._manager.reload()  # a damaged one is gone
                return None if step is None else (step, *self._read(step, like))
            except (OSError, ValueError):
                if not self._reading or attempt == READS - 1:
                    raise
                self._manager.reload()
        raise AssertionError("unreachable")

    def restore_step(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Reads the checkpoint of one step, as `restore` does.

        Raises:
          CheckpointError: if there is none, or it is damaged.
        """
        if not processes.from_first(lambda: step in self._listed() and self._is_sound(step)):
            others = [other for other in self.steps() if other != step]
            raise CheckpointError(f"{self._directory}: no sound checkpoint of step {step}; there are those of {others}")
        return self._read(step, like)

    def close(self) -> None:
        """Finishes the last save and ends Orbax's threads."""
        self.finish()
        self._manager.close()

    def _read(self, step, like):
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(_abstract, like)), memory=ocp.args.JsonRestore()
            ),
        )
        return restored.state, restored.memory

    # What follows runs on the first process.

    def _make_ready(self):
        self._checksums.mkdir(parents=True, exist_ok=True)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._set_unfinished_aside()

    def _listed(self):
        return sorted(int(path.stem) for path in self._checksums.glob("*.json"))

    def _newest_sound(self):
        return next((step for step in reversed(self._listed()) if self._is_sound(step)), None)

    def _list_files(self, step, best_step):
        """Writes a saved checkpoint's checksums; returns the steps not to be kept, whose checksums are gone."""
        path = self._checksums / f"{step}.json"
        # Renamed when it is whole; an object in a bucket is there whole or not at all.
        temporary = path if is_remote(path) else path.with_suffix(".part")
        listed = {"best": best_step, "files": _checksums(self._directory / str(step))}
        temporary.write_text(json.dumps(listed, indent=1))
        if temporary != path:
            temporary.replace(path)
        steps = self._listed()
        # The best of each: should the newest get damaged, the one before it needs its own.
        kept = {*steps[-KEPT:], *(self._best_of(newest) for newest in steps[-KEPT:])}
        old = [step for step in steps if step not in kept]
        for step in old:
            (self._checksums / f"{step}.json").unlink()
        return old

    def _best_of(self, step):
        try:
            return json.loads((self._checksums / f"{step}.json").read_text())["best"]
        except (ValueError, KeyError):
            return None

    def _set_unfinished_aside(self):
        finished = self._listed()
        # A bucket has no empty folders.
        folders = self._directory.iterdir() if self._directory.is_dir() else ()
        unlisted = sorted(int(path.name) for path in folders if path.name.isdigit())
        unlisted = [step for step in unlisted if step not in finished]
        if not finished and len(unlisted) > 1:
            raise CheckpointError(
                f"{self._checksums} is missing or empty, and without it no checkpoint in {self._directory} can be "
                "checked: restore it, or move the checkpoints away to train from the start"
            )
        for step in unlisted:
            if finished and step < finished[-1]:
                (self._directory / str(step)).rmtree()  # an old one, whose deletion a kill cut short
            else:
                place = self._move_aside(step)
                self._tell(f"checkpoint {step} was not finished when its process ended: moved to {place}")

    def _move_aside(self, step):
        place = self._damaged / str(step)
        self._damaged.mkdir(exist_ok=True)
        if is_remote(self._damaged):
            (self._damaged / ".folder").touch()  # a bucket has no empty folders, and nothing is moved to where none is
        place.rmtree(missing_ok=True)
        if (self._directory / str(step)).is_dir():
            (self._directory / str(step)).rename(place)
        return place

    def _is_sound(self, step):
        path, listed = self._directory / str(step), self._checksums / f"{step}.json"
        problem = _problem(path, listed)
        if problem is None:
            return True
        aside = ""
        if not self._reading:
            aside = f": moved to {self._move_aside(step)}"
            listed.unlink()
        self._tell(f"checkpoint {step} is damaged ({problem}){aside}")
        return False


def _abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _checksums(directory: LiteralPath) -> dict[str, str]:
    if not directory.is_dir():
        return {}
    sums: dict[str, str] = {}
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            sums |= {f"{path.name}/{name}": checksum for name, checksum in _checksums(path).items()}
        else:
            sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return sums


def _problem(directory: LiteralPath, listed: LiteralPath) -> str | None:
    """Says how a checkpoint differs from its checksums, or None."""
    try:
        expected = json.loads(listed.read_text())["files"]
    except (ValueError, KeyError):
        return f"{listed.name} is not readable"
    found = _checksums(directory)
    for name, checksum in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != checksum:
            return f"{name} has changed"
    return None
