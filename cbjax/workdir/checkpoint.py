"""Saves and restores everything that training changes, as Orbax checkpoints that are checked byte for byte.

Orbax restores damaged bytes without an error. So each checkpoint has a list of its files' SHA-256 sums.
"""

import asyncio
import dataclasses
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cbjax.host.literal_path import LiteralPath
from cbjax.host.storage import place_of
from cbjax.parallel import processes
from cbjax.types import TrainState
from cbjax.workdir.checkpoint_folder import CheckpointError, CheckpointFolder

# Orbax numbers the saves of a process when they start. If two threads start one at once, both get the same number.
_STARTING = threading.Lock()


class Checkpoints:
    """The checkpoints of one work directory: `checkpoints/STEP` in Orbax's layout, and `checksums/STEP.json`.

    If there are several processes, all must call the same methods in the same order; process 0 moves and deletes.

    Args:
      workdir: the work directory.
      tell: called with a line for the user about each checkpoint that cannot be used.
      keep_all: whether no checkpoint is deleted; else the newest two stay, and the best ones.
      reading: True leaves the directory as it is, so that a reader does not disturb a training process. False makes a
        missing directory, removes unfinished files of an ended process, and moves damaged checkpoints to `damaged/`.

    Raises:
      CheckpointError: if there are several checkpoints and no checksums at all.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        tell: Callable[[str], None] = lambda line: None,
        reading: bool = False,
        keep_all: bool = False,
    ):
        # An absolute path, since Orbax refuses others.
        self._folder = CheckpointFolder(LiteralPath(place_of(workdir)), tell, reading, keep_all)
        self._directory, self._reading = self._folder.directory, reading
        self._saving: dict[int, int | None] = {}  # step -> best step
        self._saved = time.perf_counter()
        processes.from_first(self._folder.make_ready)
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            temporary_path_class=_with_checksums(self._folder, self._saving),
        )

    def seconds_since_save(self) -> float:
        """Returns the time since a save began, or since this object was made."""
        return time.perf_counter() - self._saved

    def steps(self) -> list[int]:
        """Lists the steps of the complete checkpoints, oldest first."""
        return processes.from_first(self._folder.whole)

    def save(self, step: int, state: TrainState, memory: dict[str, Any], best_step: int | None = None) -> None:
        """Starts to save. A thread writes, computes checksums and commits while training goes on.

        The next `save` or `finish` waits for the thread, and raises its error.

        Args:
          step: number of steps taken; the checkpoint's name.
          state: the device state.
          memory: the host's state, JSON values only.
          best_step: step whose checkpoint must be kept besides the newest ones.
        """
        self.finish()
        self._saved = time.perf_counter()
        if step in self.steps():
            return
        # A copy, because the next step reuses the state's memory while Orbax still reads it.
        copy = copied(_saved(state))
        self._saving[step] = best_step
        with _STARTING:
            self._checkpointer.save(
                self._directory / str(step),
                args=ocp.args.Composite(state=ocp.args.StandardSave(copy), memory=ocp.args.JsonSave(memory)),
            )

    def finish(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          OSError: if the disk refused it, with the place and the reason.
        """
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            place = self._directory / str(next(reversed(self._saving)))
            if processes.is_first():
                self._folder.remove_remains()
            raise _as_disk_error(error, place) from error

    def restore(self, like: TrainState) -> tuple[int, TrainState, dict[str, Any]] | None:
        """Reads the newest undamaged checkpoint, with the shapes of `like` and onto its devices.

        Returns:
          (step, state, memory), or None if there is no checkpoint.
        """
        while (step := processes.from_first(self._folder.newest_sound)) is not None:
            restored = self._restore_or_skip(step, like)
            if restored is not None:
                return step, *restored
        return None

    def restore_step(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Reads the checkpoint of one step, as `restore` does.

        Raises:
          CheckpointError: if there is none, or it is damaged.
        """
        sound = processes.from_first(lambda: step in self._folder.whole() and self._folder.is_sound(step))
        restored = self._restore_or_skip(step, like) if sound else None
        if restored is None:
            others = [other for other in self.steps() if other != step]
            raise CheckpointError(f"{self._directory}: no sound checkpoint of step {step}; there are steps {others}")
        return restored

    def read_network(self, step: int) -> dict[str, Any]:
        """Reads "params" and "batch_stats" of the checkpoint of one step, whatever else is in its state.

        Returns:
          Both as NumPy arrays.

        Raises:
          CheckpointError: if there is none, or it is damaged.
        """
        if not processes.from_first(lambda: step in self._folder.whole() and self._folder.is_sound(step)):
            raise CheckpointError(f"{self._directory}: no sound checkpoint of step {step}")
        place = self._directory / str(step)
        found = ocp.StandardCheckpointHandler().metadata(place / "state").tree
        like = jax.tree.map(
            lambda leaf: np.empty(leaf.shape, leaf.dtype), {name: found[name] for name in ("params", "batch_stats")}
        )
        arrays = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), like)
        options = ocp.args.PyTreeRestore(like, restore_args=arrays, partial_restore=True)
        return self._checkpointer.restore(place, args=ocp.args.Composite(state=options)).state

    def close(self) -> None:
        """Finishes the last save and ends Orbax's threads."""
        try:
            self.finish()
        finally:
            self._checkpointer.close()

    def _restore_or_skip(self, step, like):
        """Returns (state, memory), or None if the checkpoint was deleted meanwhile, or is damaged and unlisted."""
        listed = processes.from_first(lambda: self._folder.is_listed(step))
        try:
            restored = self._read(step, like)
        except Exception as error:
            if processes.count() > 1:  # perhaps only this process failed
                raise
            if self._reading and step not in self._folder.whole():
                return None
            if listed:
                raise
            self._folder.set_aside(step, (str(error) or type(error).__name__).splitlines()[0])
            return None
        if self._reading:
            # Checkpoints are renamed before their files are deleted. So if it is still there, all of it was read.
            return restored if processes.from_first(lambda: step in self._folder.whole()) else None
        if not listed:
            best = restored[1].get("best")
            processes.from_first(lambda: self._folder.list_files(step, best and best["step"]))
        return restored

    def _read(self, step, like):
        place = self._directory / str(step)
        wanted = jax.tree.map(_abstract, _saved(like))
        restored = self._checkpointer.restore(
            place,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_with_old_settings(wanted, place / "state")),
                memory=ocp.args.JsonRestore(),
            ),
        )
        return _whole(restored.state, like), restored.memory


def _with_checksums(folder: CheckpointFolder, saving: dict[int, int | None]) -> Any:
    """Returns Orbax's class for a checkpoint that is being written, extended: a commit also writes checksums.

    Orbax calls `finalize` in its own thread, and only in process 0.
    """

    commit: Any = folder.commit

    class Checked(commit):
        async def finalize(self, *args, **kwargs):
            step = int(self.get_final().name)
            await asyncio.to_thread(folder.before_commit, step, saving[step], self.get())
            await super().finalize(*args, **kwargs)
            await asyncio.to_thread(folder.after_commit, step, saving[step])

    return Checked


@jax.jit  # one program, not one for each shape of an array
def copied(tree: Any) -> Any:
    """Returns a copy of a tree of device arrays. It stays valid when a step takes over the memory of the first."""
    return jax.tree.map(jnp.copy, tree)


def _saved(state: Any) -> Any:
    """Returns the parts of a state, or of several states by name, that are saved.

    Settings are not saved, as they come from config and data. The objective's state is saved only if it is not empty,
    so checkpoints of other runs do not change.
    """
    if not isinstance(state, TrainState):
        return {name: _saved(one) for name, one in state.items()}
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {
        name: value
        for name, value in fields.items()
        if name != "settings" and (name != "objective" or jax.tree.leaves(value))
    }


def _whole(saved: Any, like: Any) -> Any:
    """Returns whole states from their saved parts; the other parts come from `like`."""
    if isinstance(like, TrainState):
        return dataclasses.replace(like, **{name: value for name, value in saved.items() if name != "settings"})
    return {name: _whole(saved[name], one) for name, one in like.items()}


def _with_old_settings(wanted: Any, place: Any) -> Any:
    """Adds settings to the tree to read, if a checkpoint holds them as older ones do; Orbax reads only whole trees."""
    found = ocp.StandardCheckpointHandler().metadata(place).tree

    def add(wanted, found):
        if "step" not in found:
            return {name: add(one, found[name]) for name, one in wanted.items()}
        if "settings" not in found:
            return wanted
        like = wanted["step"].sharding
        settings = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=like), found["settings"]
        )
        return {**wanted, "settings": settings}

    return add(wanted, found)


def _as_disk_error(error: Exception, place: os.PathLike) -> Exception:
    """Turns TensorStore's error of a disk into Python's OSError with the place; returns other errors unchanged."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if isinstance(error, OSError):
        code = re.match(r"(\d+)", str(error.errno))
    return OSError(int(code[1]), os.strerror(int(code[1])), os.fspath(place)) if code else error


def _abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
