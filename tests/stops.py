"""Stops a run of this process in the middle of an epoch, as a signal of the user would."""

import contextlib
import dataclasses
import signal

import pytest

from cbjax.host.interrupts import Interrupted
from cbjax.training import build


@contextlib.contextmanager
def stopped_at(step):
    """Sends SIGTERM to the run that is trained inside, in a step; the run must end there and save that step."""
    make = build.build

    def stopping(*args):
        parts = make(*args)

        def advance(state, first, last):
            if last == step:
                signal.raise_signal(signal.SIGTERM)
            return parts.advance(state, first, last)

        return dataclasses.replace(parts, advance=advance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build", stopping)
        with pytest.raises(Interrupted, match=f"step {step} is saved"):
            yield
