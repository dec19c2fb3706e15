"""Orbax checkpoints of everything that training changes, checked byte for byte before they are used.

Orbax restores changed bytes without a word, so each checkpoint has a list of its files' SHA-256 sums.
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
import orbax.checkpoint as ocp

from cbjax.host.literal_path import LiteralPath
from cbjax.host.storage import place_of
from cbjax.parallel import processes
from cbjax.types import TrainState
from cbjax.workdir.checkpoint_folder import CheckpointError, CheckpointFolder

# Orbax numbers the saves of a process as they start, and two that start at once in two threads get one number.
_STARTING = threading.Lock()


class Checkpoints:
    """The checkpoints of one work directory: `checkpoints/STEP` in Orbax's layout, `checksums/STEP.json` beside it.

    Of several processes all must call the same methods in the same order; the first one moves and deletes.

    Args:
      workdir: the work directory.
      tell: called with a line for the user for each checkpoint that could not be used.
      reading: True leaves the directory as it is, for a reader beside a training process; False makes it where it is
        missing, removes what an ended process left unfinished, and moves damaged checkpoints to `damaged/`.

    Raises:
      CheckpointError: if there are several checkpoints and no checksums at all.
    """

    def __init__(
        self, workdir: str | os.PathLike, tell: Callable[[str], None] = lambda line: None, reading: bool = False
    ):
        # Absolute: Orbax refuses others.
        self._folder = CheckpointFolder(LiteralPath(place_of(workdir)), tell, reading)
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
        """Lists the steps of the checkpoints that are whole, oldest first."""
        return processes.from_first(self._folder.whole)

    def save(self, step: int, state: TrainState, memory: dict[str, Any], best_step: int | None = None) -> None:
        """Starts to save; a thread writes, checksums and commits while training goes on.

        The next `save` or `finish` waits for it, and raises what went wrong.

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
        copy = jax.tree.map(jnp.copy, _saved(state))
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
        """Reads the newest undamaged checkpoint onto the devices and in the shapes of `like`.

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
            raise CheckpointError(f"{self._directory}: no sound checkpoint of step {step}; there are those of {others}")
        return restored

    def close(self) -> None:
        """Finishes the last save and ends Orbax's threads."""
        try:
            self.finish()
        finally:
            self._checkpointer.close()

    def _restore_or_skip(self, step, like):
        """Returns (state, memory); None of a checkpoint that was deleted meanwhile, or that nothing vouches for."""
        listed = processes.from_first(lambda: self._folder.list_of(step).exists())
        try:
            restored = self._read(step, like)
        except Exception as error:
            if processes.count() > 1:  # this one may fail alone
                raise
            if self._reading and step not in self._folder.whole():
                return None
            if listed:
                raise
            self._folder.set_aside(step, (str(error) or type(error).__name__).splitlines()[0])
            return None
        if self._reading:
            # A checkpoint is renamed before its files are deleted: if it is there now, all of it was.
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
    """Returns Orbax's class of a checkpoint that is being written, which adds the checksums as it is committed.

    Orbax calls `finalize` in a thread of its own, of several processes in the first one.
    """

    commit: Any = folder.commit

    class Checked(commit):
        async def finalize(self, *args, **kwargs):
            step = int(self.get_final().name)
            await asyncio.to_thread(folder.before_commit, step, saving[step], self.get())
            await super().finalize(*args, **kwargs)
            await asyncio.to_thread(folder.after_commit, step, saving[step])

    return Checked


def _saved(state: Any) -> Any:
    """Returns what is saved of a state, or of several by name: all but its settings, which come from config and data.

    What an objective remembers is saved where it is something, so that a run without has the checkpoints that it had
    before objectives could remember.
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
    """Returns states again from what was saved of them; the rest is that of `like`."""
    if isinstance(like, TrainState):
        return dataclasses.replace(like, **{name: value for name, value in saved.items() if name != "settings"})
    return {name: _whole(saved[name], one) for name, one in like.items()}


def _with_old_settings(wanted: Any, place: Any) -> Any:
    """Adds settings to what is read from a checkpoint that has them, as all had once: Orbax reads a tree whole."""
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
    """Returns TensorStore's error of a disk as Python's own, with the place; any other as it is."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if isinstance(error, OSError):
        code = re.match(r"(\d+)", str(error.errno))
    return OSError(int(code[1]), os.strerror(int(code[1])), os.fspath(place)) if code else error


def _abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
