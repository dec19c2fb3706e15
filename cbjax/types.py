"""The records that the parts of cbjax hand to each other."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cbjax.host.text import one_line

SHOWN_CLASSES = 10  # in the text of a run

Array = jax.Array
# "image" [B, H, W, channels], "label" [B] or [B, C], optional "mask" [B], 0 for padding; in a training step "key" [],
# "place" [B] in the global batch, and batches of other streams by their names.
Batch = Mapping[str, Any]


class Settings(NamedTuple):
    """Numbers of a run's config and data that its programs take as arguments, float32.

    Runs that differ in them alone share their programs.

    Attributes:
      learning_rate: [] after the warm-up.
      warmup_from: [] learning rate of step 0, where there is a warm-up.
      weight_decay: [].
      loss: numbers of the loss, each [], by the names of their keys (`config.parts.LOSS_NUMBERS`).
      method: numbers of what is around the loss, each [], by their whole keys (`config.parts.METHOD_NUMBERS`);
        and "mix.first_step" and "mix.end_step", the steps between which images are mixed.
      answer_tau: [] of the adjustment of answers.
      mean, std: [channels] by which images are normalised.
      counts: [C] training images of each class, for margins, priors and masks.
    """

    learning_rate: Any
    warmup_from: Any
    weight_decay: Any
    loss: Mapping[str, Any]
    method: Mapping[str, Any]
    answer_tau: Any
    mean: Any
    std: Any
    counts: Any

    @classmethod
    def of(cls, *, loss: Mapping[str, Any], method: Mapping[str, Any] | None = None, **others: Any) -> "Settings":
        """Returns settings of these numbers, as float32 arrays; those that are not given are 0."""
        given = {name: np.asarray(others.pop(name, 0.0), np.float32) for name in {*cls._fields} - {"loss", "method"}}
        return cls(**given, loss=_floats(loss), method=_floats(method or {}), **others)


def _floats(numbers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(number, np.float32) for name, number in numbers.items()}


class NonFiniteLoss(FloatingPointError):
    """The loss, the gradient or the outputs became NaN or infinite; the message says where, and what is saved."""

    of_all = True  # processes, see processes.together


class Model(NamedTuple):
    """A network as pure functions of explicit parameters.

    Attributes:
      init: (key, images [B, H, W, channels]) -> (params, batch_stats).
      features: (params, batch_stats, images, train) -> ([B, D], batch_stats).
      head: (params, features [B, D]) -> logits [B, C].
      apply: (params, batch_stats, images, train, key=None) -> (logits [B, C], batch_stats), the composition of the two
        above. A network with dropout needs the key in training.
    """

    init: Callable[..., tuple[Any, Any]]
    features: Callable[..., tuple[Array, Any]]
    head: Callable[..., Array]
    apply: Callable[..., tuple[Array, Any]]

    def __repr__(self) -> str:
        return "Model(init, features, head, apply)"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class TrainState:
    """Everything that a step reads besides its batch; one pytree, replicated over devices.

    All of it is saved but `settings`, which come from the config and the data.

    Attributes:
      step: [] int32, steps taken.
      params: parameters of the model.
      batch_stats: running statistics of BatchNorm, empty for models without it.
      opt_state: state of the optax transformation.
      class_weights: [C] float32, an argument of the step so that new weights do not recompile it.
      key: the run's random key; a step folds its number into it.
      settings: numbers of the config and the data (`Settings`).
      objective: what the run's objective remembers, such as a histogram; () for most.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    class_weights: Array
    key: Array
    settings: Any = ()
    objective: Any = ()

    def __repr__(self) -> str:
        size = sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(self.params))
        try:
            step = "?" if isinstance(self.step, jax.ShapeDtypeStruct) else np.asarray(self.step).tolist()
        except (TypeError, RuntimeError, jax.errors.JAXTypeError):  # a traced or donated array
            step = "?"
        return f"TrainState(step {step}, {size:,} parameters)"


class Trained(NamedTuple):
    """What an evaluation reads of a `TrainState`, under the same names."""

    params: Any
    batch_stats: Any
    settings: Any
    objective: Any = ()

    @classmethod
    def of(cls, state: TrainState) -> "Trained":
        """Returns the part of a state that an evaluation reads."""
        return cls(state.params, state.batch_stats, state.settings, state.objective)


class Terms(NamedTuple):
    """What an objective makes of a batch.

    Attributes:
      losses: [B], weighted, not reduced.
      amounts: [B], what each example counts in the mean; no gradient flows through them.
      logits: [B, C], for the training accuracy.
      batch_stats: running statistics after this batch.
      state: the objective's next state, the same on all devices.
    """

    losses: Array
    amounts: Array
    logits: Array
    batch_stats: Any
    state: Any


class Objective(NamedTuple):
    """A method: what it makes of a batch, what it remembers, and what its model answers.

    Attributes:
      init: (key, params, settings) -> its first state, a pytree; () where it remembers nothing.
      apply: (params, state, batch) -> Terms; `params` are those to differentiate by, the rest is `state`'s.
      logits: (trained, images) -> [B, C], what evaluation and predictions read.
      streams: what a batch holds besides the training images, by name, each a batch under its name.
    """

    init: Callable[[Array, Any, Settings], Any]
    apply: Callable[[Any, TrainState, Batch], Terms]
    logits: Callable[[Trained, Array], Array]
    streams: tuple[str, ...] = ()


Row = Mapping[str, Any]  # of a log: JSON values by name, headed by "step" and "epoch"


@dataclasses.dataclass(frozen=True)
class Sums:
    """The training metrics of an epoch so far, summed over its images.

    Attributes:
      loss: of the images, weighted by their classes.
      correct: images that were classified rightly.
      count: images.
    """

    loss: float = 0.0
    correct: int = 0
    count: int = 0


@dataclasses.dataclass(frozen=True)
class Best:
    """The earliest epoch with the highest balanced accuracy on held-out validation, and its last step."""

    step: int
    epoch: int
    balanced_accuracy: float


@dataclasses.dataclass(frozen=True)
class Memory:
    """What training changes on the host; every checkpoint has it, as JSON (`workdir.memory`).

    Attributes:
      step: steps done.
      epoch: epochs done.
      images: images drawn, the position in the data.
      sums: over the steps of the running epoch.
      accuracy: [C] the last known accuracy of each class on held-out validation, averaged over epochs where
        `difficulty.smoothing` is above 0; None for a class without examples, 0 before the first epoch's end.
      best: the best epoch; None before there is one.
      history: the rows of each log, by its name.
      seconds: the time that the steps of the running epoch took before it was saved; 0 where no epoch is under way.
    """

    step: int = 0
    epoch: int = 0
    images: int = 0
    sums: Sums = Sums()
    accuracy: tuple[float | None, ...] = ()
    best: Best | None = None
    history: Mapping[str, tuple[Row, ...]] = dataclasses.field(
        default_factory=lambda: {"metrics": (), "per_class": (), "class_weights": ()}
    )
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """A training run at one moment: what callbacks take and return, and what `train` and `load` give.

    Attributes:
      config: the resolved ConfigDict.
      model: the network's functions.
      state: the device state.
      metrics: in the loop, the row of the epoch that just ended; from `train` and `load`, the final metrics.
      class_names: [C] names in label order.
      predict: images, as they were before training (an array, or a list of paths, Pillow images and arrays of any size)
        -> probabilities [N, C]: of one class among all for softmax losses, of each class on its own for one-vs-rest
        losses (sigmoid, focal, eql, ghm). None inside the loop.
      memory: what training changes on the host; saved with the state.
      workdir: where the run is kept, from `train` and `load`.
      show: shows the run's report with its pictures in a notebook; makes it first if it is missing. From `train` and
        `load`.
    """

    config: Any
    model: Model
    state: TrainState
    metrics: dict[str, float]
    class_names: tuple[str, ...]
    predict: Callable[..., np.ndarray] | None = None
    memory: Memory = Memory()
    workdir: str | None = None
    show: Callable[[], None] | None = None

    def __repr__(self) -> str:
        config, names = self.config, self.class_names
        what = [config.data.name, config.model.name, f"{config.loss.name} loss", f"{config.weights.name} weights"]
        shown = ", ".join(names[:SHOWN_CLASSES]) + (", …" if len(names) > SHOWN_CLASSES else "")
        lines = [
            "Run" + (f" in {self.workdir}" if self.workdir else ""),
            f"  config: {', '.join(map(str, what))}, seed {config.seed}",
            f"  {self.state!r}; epoch {self.memory.epoch} of {config.num_epochs}",
            f"  {len(names)} classes: {shown}",
        ]
        for name in ("last", "best"):
            found = {key: self.metrics.get(f"test/{name}/{key}") for key in ("accuracy", "balanced_accuracy")}
            known = [
                f"{key.replace('_', ' ')} {100 * value:.1f} %" for key, value in found.items() if value is not None
            ]
            if known:
                epoch = self.metrics.get("best/epoch") if name == "best" else None
                lines.append(f"  test, {name}{f' (epoch {epoch})' if epoch else ''}: {', '.join(known)}")
        return "\n".join(one_line(line) for line in lines)

    def remember(self, **changes: Any) -> "Run":
        """Returns the run with some fields of its memory changed."""
        return dataclasses.replace(self, memory=dataclasses.replace(self.memory, **changes))


Callback = Callable[[Run], Run]
