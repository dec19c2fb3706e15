"""Draws reliability: how often a model is right, by how confident it is."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from cbjax.report import canvas
from cbjax.report.read import RunRecord
from cbjax.report.sections import CHOSEN, PANELS, picture
from cbjax.report.table import over_seeds


def section(methods: Mapping[str, Sequence[RunRecord]], checkpoint: str, out: pathlib.Path) -> list[str]:
    """Draws accuracy by confidence for each method, over all its runs; returns [] if no run was measured."""
    bins = {label: [run.calibration(checkpoint) for run in runs] for label, runs in methods.items()}
    sums = {label: np.sum([part for part in parts if part is not None], axis=0) for label, parts in bins.items()}
    sums = {label: total for label, total in sums.items() if np.ndim(total) == 2}
    if not 0 < len(sums) <= PANELS:
        return []
    errors = {label: over_seeds("ece", [run.test_metrics(checkpoint) for run in methods[label]]) for label in sums}
    pooled = any(len(methods[label]) > 1 for label in sums)
    draw(out / "reliability.png", sums, errors, "images of all runs together; ECE: mean over runs" if pooled else "")
    text = f"Test images by confidence, {CHOSEN[checkpoint]}. On the dotted line confidence equals accuracy."
    if pooled:
        text += " Curves are over the images of all runs of a method together; ECE is the mean over its runs."
    return ["## Reliability", text, picture(out / "reliability.png", "Accuracy by confidence")]


@canvas.drawing
def draw(path: pathlib.Path, sums: Mapping[str, np.ndarray], errors: Mapping[str, str], title: str) -> None:
    """Draws a panel per method: accuracy of each bin of confidence, the bins' shares of all images, the diagonal.

    Args:
      path: the PNG to write.
      sums: method -> [3, bins]: images, sum of confidences, images predicted right.
      errors: method -> its calibration error in per cent, as in the table of results.
      title: above all panels.

    Source: Guo et al. 2017, figure 1.
    """
    figure, panels = canvas.grid(sums, width=3.6, height=3.6)
    for axes, (label, (images, confidence, correct)) in zip(panels, sums.items(), strict=True):
        edges = np.linspace(0, 100, len(images) + 1)
        filled = images > 0
        share, width = 100 * images / images.sum(), edges[1]
        axes.bar(edges[:-1], share, width, align="edge", color="#dddddd", label="share of images")
        axes.plot([0, 100], [0, 100], color=canvas.GREY, lw=1, ls=":")
        means = 100 * confidence[filled] / images[filled], 100 * correct[filled] / images[filled]
        axes.plot(*means, color=canvas.COLOURS[0], marker="o", ms=4, lw=1.4, label="accuracy", clip_on=False, zorder=3)
        name = f"{label}, ECE {errors[label]} %".removeprefix(", ")
        canvas.finish(axes, name, "confidence (%)", "accuracy (%)")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
    canvas.label_outer(panels)
    panels[0].legend(fontsize=8, frameon=False, loc="upper left")
    figure.suptitle(title, fontsize=10)
    canvas.save(figure, path)
