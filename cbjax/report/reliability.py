"""Draws reliability: how often a model is right, by how confident it is."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbjax.config.parts import ONE_VS_REST
from cbjax.host.text import escape
from cbjax.report import canvas
from cbjax.report.read import RunRecord
from cbjax.report.sections import CHOSEN, PANELS, picture
from cbjax.report.table import over_seeds

SPARSE = 10  # accuracies of fewer images say little


def section(methods: Mapping[str, Sequence[RunRecord]], checkpoint: str, out: pathlib.Path) -> list[str]:
    """Draws accuracy by confidence for each method, over all its runs; returns [] if no run was measured."""
    bins = {label: [run.calibration(checkpoint) for run in runs] for label, runs in methods.items()}
    sums = {label: np.sum([part for part in parts if part is not None], axis=0) for label, parts in bins.items()}
    sums = {label: total for label, total in sums.items() if np.ndim(total) == 2}
    if not 0 < len(sums) <= PANELS:
        return []
    errors = {label: over_seeds("ece", [run.test_metrics(checkpoint) for run in methods[label]]) for label in sums}
    pooled = any(len(methods[label]) > 1 for label in sums)
    noun = next(run.noun for runs in methods.values() for run in runs)
    title = f"{noun}s of all runs together; ECE: mean over runs" if pooled else ""
    draw(out / "reliability.png", sums, errors, title, noun)
    text = f"Test {noun}s by confidence, {CHOSEN[checkpoint]}. On the dotted line confidence equals accuracy."
    if pooled:
        text += f" Curves are over the {noun}s of all runs of a method together; ECE is the mean over its runs."
    apart = [label for label in sums if methods[label][0].settings.get("loss.name") in ONE_VS_REST]
    if apart:
        whose = f" in {', '.join(map(escape, apart))}" if len(sums) > 1 else ""
        text += f" Confidence{whose} is one-vs-rest: the chance of a yes for the class."
        text += f" The chances of one {noun} do not sum to 1."
    return ["## Reliability", text, picture(out / "reliability.png", "Accuracy by confidence")]


@canvas.drawing
def draw(
    path: pathlib.Path, sums: Mapping[str, np.ndarray], errors: Mapping[str, str], title: str, noun: str = "image"
) -> None:
    """Draws a panel per method: accuracy of each bin of confidence, the bins' shares of all images, the diagonal.

    Each accuracy has its 95 % interval (Wilson 1927). Bins with fewer than 10 images are pale, and no line joins them.

    Args:
      path: the PNG to write.
      sums: method -> [3, bins]: images, sum of confidences, images predicted right.
      errors: method -> its calibration error in per cent, as in the table of results.
      title: above all panels.
      noun: what is counted.

    Source: Guo et al. 2017, figure 1.
    """
    figure, panels = canvas.grid(sums, width=3.6, height=3.6)
    names = canvas.distinct(sums, 28)
    for axes, (label, (images, confidence, correct)) in zip(panels, sums.items(), strict=True):
        edges = np.linspace(0, 100, len(images) + 1)
        axes.bar(
            edges[:-1], 100 * images / images.sum(), edges[1], align="edge", color="#dddddd", label=f"share of {noun}s"
        )
        axes.plot([0, 100], [0, 100], color=canvas.GREY, lw=1, ls=":")
        for many in (True, False):
            of = (images >= SPARSE) if many else (images > 0) & (images < SPARSE)
            _points(axes, images[of], confidence[of], correct[of], many, noun)
        canvas.finish(
            axes, f"{names[label]}, ECE {errors[label]} %".removeprefix(", "), "confidence (%)", "accuracy (%)"
        )
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
    canvas.label_outer(panels)
    panels[0].legend(fontsize=8, frameon=False, loc="upper left")
    canvas.head(figure, title)
    canvas.save(figure, path)


def _points(axes: Any, images: np.ndarray, confidence: np.ndarray, correct: np.ndarray, many: bool, noun: str) -> None:
    if not len(images):
        return
    x, y = 100 * confidence / images, 100 * correct / images
    low, high = wilson(images, correct)
    bars = [np.maximum(y - 100 * low, 0), np.maximum(100 * high - y, 0)]
    colour = canvas.COLOURS[0] if many else "#8fb8d3"
    look = {
        "color": colour,
        "mfc": colour if many else "white",
        "ls": "-" if many else "",
        "lw": 1.4,
        "elinewidth": 0.8,
    }
    label = "accuracy, 95 % interval" if many else f"fewer than {SPARSE} {noun}s"
    drawn = axes.errorbar(x, y, bars, marker="o", ms=4, label=label, zorder=3 if many else 2.5, **look)
    # A marker at 0 or 100 % is not cut.
    drawn.lines[0].set_clip_on(False)


def wilson(images: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the 95 % interval of each share `correct / images`; images are at least 1."""
    z2 = 1.959964**2
    middle = (correct + z2 / 2) / (images + z2)
    half = np.sqrt(z2 * (correct * (images - correct) / images + z2 / 4)) / (images + z2)
    return middle - half, middle + half
