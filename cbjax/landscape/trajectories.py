"""The networks that a run passed in training, from its first state and its checkpoints."""

import contextlib

import jax

from cbjax.config import ConfigError
from cbjax.host.output import say
from cbjax.landscape.directions import Network
from cbjax.landscape.subject import Subject
from cbjax.parallel import sharding
from cbjax.training import build
from cbjax.workdir.checkpoint import CheckpointError, Checkpoints
from cbjax.workdir.files import WorkdirError

LEAST = 3


def networks_of(subject: Subject) -> tuple[list[Network], list[int]]:
    """Returns the networks in the order of training, and their steps; the last is that of the subject.

    The first is the network before the first step, made again from the run's seed and its first weights; left out if
    these came from a file or another run that is not there any more.

    Raises:
      ConfigError: if there are too few checkpoints.
    """
    last = subject.about["step"]
    parts = build.build(subject.run.config, subject.dataset, sharding.make_mesh(1))
    networks, steps = [], []
    try:
        first = build.first_state(parts)
        networks, steps = [Network(*jax.device_get((first.params, first.batch_stats)))], [0]
    except (ConfigError, WorkdirError, CheckpointError) as error:
        say(f"the way begins at the first checkpoint, since those before it are gone: {error}")
    with contextlib.closing(Checkpoints(subject.about["workdir"], say, reading=True)) as checkpoints:
        for step in checkpoints.steps():
            if step < last:
                found = checkpoints.read_network(step)
                networks.append(Network(found["params"], found["batch_stats"]))
                steps.append(step)
    networks.append(subject.network)
    steps.append(last)
    if (count := sum(step > 0 for step in steps)) < LEAST:
        raise ConfigError(
            f"a trajectory needs at least {LEAST} checkpoints; {subject.about['workdir']} has {count} up "
            f"to step {last}: train with --config.checkpoint.keep=all, which keeps every one"
        )
    return networks, steps
