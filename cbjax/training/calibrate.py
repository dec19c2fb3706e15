"""Changes a finished run's answers without training: by one temperature, or by a threshold for each class.

Both are fitted on held-out validation images; test images choose nothing.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from cbjax.config import ConfigError, class_groups
from cbjax.metrics import ClassificationSums, summarize
from cbjax.training import components, scores
from cbjax.training.restore import Examined

KINDS = ("temperature", "thresholds")
RANGE = (-10.0, 10.0)  # of the logarithm of a temperature
NEAR = 0.01  # an end of it: the search stops a little before
FARTHEST = 700.0  # largest logarithm of a threshold, up or down: e^709 is the last that a float can hold
SWEEPS = 5  # most times that each class's threshold is fitted


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What is fitted.

    Attributes:
      temperature: logits are divided by it before they become probabilities; the predicted classes stay.
      thresholds: [C]; the predicted class is that of the highest probability / threshold, and the probabilities stay.
        None for the highest probability.
    """

    temperature: float = 1.0
    thresholds: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A calibration, and what it does.

    Attributes:
      calibration: fitted.
      images: how many validation images it was fitted on.
      before, after: split -> figures by name: those of `summarize`, with "nll" in place of the loss.
    """

    calibration: Calibration
    images: int
    before: dict[str, dict[str, float]]
    after: dict[str, dict[str, float]]


def fit(kind: str, found: Examined, held_out: Examined) -> Fitted:
    """Fits a calibration on validation images and measures it on others. Images without an answer count nowhere.

    Args:
      kind: one of KINDS.
      found: the images to measure on, each with one label.
      held_out: the same checkpoint on validation images.

    Raises:
      ConfigError: if no validation image has an answer.
    """
    one_vs_rest = components.loss_facts(held_out.run.config).one_vs_rest
    logits, labels = _answered(held_out)
    if len(labels) == 0:
        raise ConfigError("--calibrate needs validation images for which the network's outputs are finite; got none")
    if kind == "temperature":
        calibration = Calibration(temperature=fit_temperature(logits, labels, one_vs_rest))
    else:
        calibration = Calibration(thresholds=fit_thresholds(log_probabilities(logits, one_vs_rest), labels))
    groups = class_groups.resolve(found.run.config.evaluation.groups, found.run.class_names)
    splits = {"validation": (logits, labels), found.about["split"]: _answered(found)}
    splits = {name: arrays for name, arrays in splits.items() if len(arrays[1])}

    def measured(calibration):
        options = {"calibration": calibration, "one_vs_rest": one_vs_rest, "counts": found.counts, "groups": groups}
        return {name: figures(*arrays, **options) for name, arrays in splits.items()}

    return Fitted(calibration, len(labels), measured(Calibration()), measured(calibration))


def with_accuracy_after(found: Examined, calibration: Calibration) -> Examined:
    """Adds the accuracy of each class under thresholds; images without an answer count as wrong, as before."""
    logits, labels = _answered(found)
    log_chances = log_probabilities(logits, components.loss_facts(found.run.config).one_vs_rest)
    right = labels[_ranking(log_chances, logits, calibration).argmax(axis=1) == labels]
    images = np.asarray(found.evaluation.class_count)
    accuracy = np.divide(
        np.bincount(right, minlength=len(images)), images, out=np.full(len(images), np.nan), where=images > 0
    )
    return dataclasses.replace(found, areas={**found.areas, "accuracy_after": accuracy})


def figures(logits, labels, *, calibration, one_vs_rest, counts=None, groups=None) -> dict[str, float]:
    """Returns the figures of `summarize` under a calibration, with "nll" in place of the loss.

    Args:
      logits: [N, C] finite, N at least 1.
      labels: [N] classes.
      calibration: changes the answers.
      one_vs_rest: as in `negative_log_likelihood`.
      counts, groups: as in `summarize`.
    """
    scaled = np.asarray(logits, np.float64) / calibration.temperature
    log_chances = log_probabilities(scaled, one_vs_rest)
    ranking = _ranking(log_chances, logits, calibration)
    confidence = np.exp(log_chances[np.arange(len(labels)), ranking.argmax(axis=1)])
    losses = negative_log_likelihood(scaled, labels, one_vs_rest)
    arrays = (ranking, labels, losses.astype(np.float32), np.ones(len(labels), bool), confidence.astype(np.float32))
    found = summarize(ClassificationSums.from_outputs(*map(jnp.asarray, arrays)), counts, groups)
    return {"nll" if name == "loss" else name: value for name, value in found.items()}


def _ranking(log_chances: np.ndarray, logits: Any, calibration: Calibration) -> np.ndarray:
    """Returns numbers [N, C] whose largest is the answer, float32."""
    # A temperature keeps the order, so that of the logits themselves is taken: scaling could round two to a tie.
    if calibration.thresholds is None:
        return np.asarray(logits, np.float32)
    scores = log_chances - np.log(calibration.thresholds)
    answers = scores.argmax(axis=1)[:, None]
    ranking = (scores - np.take_along_axis(scores, answers, axis=1)).astype(np.float32)
    # float32 may take the answer and the next one for equal, where float64 does not.
    np.put_along_axis(ranking, answers, np.float32(1), axis=1)
    return ranking


def log_probabilities(logits: Any, one_vs_rest: bool) -> np.ndarray:
    """Returns the logarithms of the probabilities, [N, C] float64, of logits [N, C]."""
    logits = np.asarray(logits, np.float64)
    if one_vs_rest:
        return -np.logaddexp(0, -logits)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def negative_log_likelihood(logits: Any, labels: Any, one_vs_rest: bool) -> np.ndarray:
    """Computes what temperature scaling minimises, for each example.

    Args:
      logits: [N, C].
      labels: [N] classes.
      one_vs_rest: whether probabilities are C sigmoids, whose losses are summed, instead of a softmax.

    Returns:
      [N] float64, in nats.
    """
    logits, rows = np.asarray(logits, np.float64), np.arange(len(labels))
    true = logits[rows, labels]
    if one_vs_rest:
        # -log sigmoid(-x) = log(1 + e^x); the true class's loss is that minus x.
        return np.logaddexp(0, logits).sum(axis=1) - true
    return np.logaddexp.reduce(logits, axis=1) - true


def fit_temperature(logits: Any, labels: Any, one_vs_rest: bool) -> float:
    """Returns the temperature of the lowest mean `negative_log_likelihood`; arguments as there, N at least 1.

    It lies between e^-10 and e^10. If every example is right, the best would be 0; this is then one so small that the
    mean is 0 but for rounding.

    Source: Guo et al. 2017, section 4.2.
    """
    from scipy import optimize

    logits = np.asarray(logits, np.float64)

    def loss(log_temperature):
        return np.mean(negative_log_likelihood(logits * np.exp(-log_temperature), labels, one_vs_rest))

    # Convex in 1 / temperature, so there is one valley.
    return float(np.exp(optimize.minimize_scalar(loss, bounds=RANGE, method="bounded", options={"xatol": 1e-7}).x))


def at_end(temperature: float) -> str:
    """Returns a remark if a fitted temperature is at an end of its range, where the best is beyond it; else ""."""
    low, high = np.log(temperature) - RANGE[0], RANGE[1] - np.log(temperature)
    if high < NEAR:
        return (
            "this is the highest temperature that is tried: as a rule the network's outputs, such as those of an "
            "untrained one, tell nothing of these images, and equal probabilities fit best"
        )
    if low < NEAR:
        return "this is the lowest temperature that is tried: the outputs of the classes hardly differ"
    return ""


def fit_thresholds(log_chances: Any, labels: Any) -> np.ndarray:
    """Returns thresholds for a high balanced accuracy of the classes of the highest probability / threshold.

    Class after class takes the threshold that is best with the others as they are. This never lowers the balanced
    accuracy of these examples; with few examples of a class, it follows them too closely, and helps less elsewhere. The
    classes without examples keep 1.

    Args:
      log_chances: [N, C] logarithms of probabilities.
      labels: [N] classes, N at least 1.

    Returns:
      [C] float64, finite and above 0, from e^-700 to e^700. Only their ratios matter.
    """
    scores, labels = np.asarray(log_chances, np.float64), np.asarray(labels)
    of_class = np.bincount(labels, minlength=scores.shape[1])
    amount, shift = 1 / of_class[labels], np.zeros(scores.shape[1])
    for _ in range(SWEEPS):
        before = shift.copy()
        for c in np.flatnonzero(of_class):
            shift[c] = _best_shift(scores + shift, labels, amount, int(c), shift[c])
        if np.array_equal(before, shift):
            break
    return np.exp(-shift)


def _best_shift(scores: np.ndarray, labels: np.ndarray, amount: np.ndarray, c: int, shift: float) -> float:
    """Returns the shift of class c's scores, which have one already, that gives the most correct examples.

    Its amount is at most `FARTHEST`; where only a larger one would help, the shift stays.
    """
    others = scores.copy()
    others[:, c] = -np.inf
    rival = others.argmax(axis=1)
    # An example is of class c if the shift grows by more than its lead.
    lead = others[np.arange(len(labels)), rival] - scores[:, c]
    order = np.argsort(lead, kind="stable")
    gains = (amount * ((labels == c).astype(float) - (rival == labels)))[order]
    lead = lead[order]
    edges = np.clip(np.concatenate([[lead[0] - 2], lead, [lead[-1] + 2]]), -FARTHEST - shift, FARTHEST - shift)
    right = np.concatenate([[0], np.cumsum(gains)])
    apart = edges[1:] > edges[:-1]  # no shift lies between examples of equal lead
    middles, right = ((edges[1:] + edges[:-1]) / 2)[apart], right[apart]
    now = gains[lead < 0].sum()
    if not apart.any() or right.max() <= now + 1e-9:
        return shift
    best = middles[right >= right.max() - 1e-9]
    return shift + float(best[np.argmin(np.abs(best))])


def _answered(found: Examined) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits and labels of the images that have finite outputs."""
    assert found.logits is not None, "an examined run gives logits"
    logits = scores.of_split(found, found.logits)
    there = np.isfinite(logits).all(axis=1)
    return logits[there], found.split.labels[there]
