"""Draws the picture of each method's page, and the index's, from the figures of finished runs.

Command: python docs/methods/pictures.py
The figures are methods_classes.csv and methods_reliability.csv, which collect.py beside this file makes from the runs.
Each page shows its picture, with what is to be seen, below its first command.
"""

import csv
import pathlib
import re
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cbjax.report import canvas, paired, reliability
from cbjax.report.table import by_frequency, group_spans, mean_and_deviation

HERE = pathlib.Path(__file__).parent
OUT = HERE.parent / "pictures" / "methods"
RESULTS = HERE.parents[1] / "configs" / "sweeps" / "results"
PLAIN, CALIBRATED = "ce", "temperature"
MEANS, SEEDS = 0.14, 0.31  # how far the marks of a method are from the middle of their class
OVERVIEW = "overview"  # the picture of the index


class Measured(NamedTuple):
    """The test figures of a method, a row for each seed.

    Attributes:
      names: [C] classes.
      counts: [C] training images.
      seeds: [n].
      accuracy: [n, C] in per cent, at the last epoch.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    seeds: tuple[str, ...]
    accuracy: np.ndarray

    @property
    def balanced(self) -> dict[str, float]:
        """Seed -> balanced accuracy in per cent."""
        return dict(zip(self.seeds, self.accuracy.mean(axis=1).tolist(), strict=True))


def measured() -> dict[str, Measured]:
    """Returns the figures of each method by its classes, from the most to the fewest training images."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in _read("methods_classes"):
        found.setdefault(row["method"], {}).setdefault(row["seed"], []).append(row)
    methods = {}
    for method, of_seeds in found.items():
        one = next(iter(of_seeds.values()))
        counts = np.array([int(row["training_images"]) for row in one])
        order = by_frequency(counts)
        accuracy = np.array([[float(row["accuracy"]) for row in rows] for rows in of_seeds.values()])
        names = tuple(one[c]["class"] for c in order)
        methods[method] = Measured(names, counts[order], tuple(of_seeds), accuracy[:, order])
    return methods


def bins() -> dict[str, np.ndarray]:
    """Returns the bins of confidence of "ce" and "temperature", [n, 3, bins] as `RunRecord.calibration`."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for row in _read("methods_reliability"):
        values = [float(row[name]) for name in ("images", "confidence", "correct")]
        found.setdefault(row["method"], {}).setdefault(row["seed"], []).append(values)
    return {method: np.array([np.transpose(rows) for rows in of.values()]) for method, of in found.items()}


def differences(found: Mapping[str, Measured]) -> dict[str, np.ndarray]:
    """Returns for each method its balanced accuracy minus that of `ce`, seed by seed, in points; the highest first."""
    plain = found[PLAIN].balanced
    apart = {name: np.array([of.balanced[seed] - plain[seed] for seed in of.seeds]) for name, of in found.items()}
    return {name: apart[name] for name in sorted(apart, key=lambda name: -apart[name].mean()) if name != PLAIN}


def block(name: str, found: Mapping[str, Measured]) -> str:
    """Returns the lines that show a picture, with what is to be seen and how many seeds it has."""
    n = f"n = {len(found[PLAIN].seeds)} seeds"
    if name == OVERVIEW:
        alt = f"Each method's balanced test accuracy minus that of {PLAIN}, with its interval, from the highest down"
        cut = max(apart := differences(found), key=lambda method: np.ptp(paired.interval(apart[method])))
        text = (
            f"Balanced test accuracy of each method minus that of `{PLAIN}`, {n}, strokes the seeds, lines the 95 % "
            f"intervals of the mean: green is above `{PLAIN}`, orange below, and grey is not told apart; the interval "
            f"of `{cut}` is cut."
        )
    elif name == CALIBRATED:
        alt = f"How often answers are right, by their confidence, before and after {name} scaling"
        text = (
            f"How often the answers of `{PLAIN}` are right, by their confidence, before and after: test images of {n} "
            "together, bars are 95 % intervals; the answers stay, so no class gains or loses."
        )
    else:
        counts = found[name].counts
        beside = "" if name == PLAIN else f": {name} beside {PLAIN}"
        alt = f"Test accuracy of each class, from {counts.max()} training images to {counts.min()}{beside}"
        many, *_, few = group_spans(found[PLAIN].counts).values()
        text = (
            f"Test accuracy of each class at the last epoch, large marks the means of {n}, small ones the seeds: "
            f"{_together(name, found, few, 'rarest')}, {_together(name, found, many, 'most frequent')}."
        )
    folder = "../pictures/methods"
    return f"![{alt}]({folder}/{name}.svg)\n\n" + textwrap.fill(f"*{text}*", 120, break_on_hyphens=False)


def _together(name: str, found: Mapping[str, Measured], span: tuple[int, int], which: str) -> str:
    classes = slice(span[0], span[1] + 1)
    here, plain = (f"{found[of].accuracy[:, classes].mean():.1f}" for of in (name, PLAIN))
    beside = "" if name == PLAIN else f" (`{PLAIN}` {plain})"
    return f"the {span[1] + 1 - span[0]} {which} classes have {here} %{beside}"


def with_picture(name: str, text: str, found: Mapping[str, Measured]) -> str:
    """Returns the text of a page with its picture between its first command and its list of points."""
    start, end = r"(```bash\n.*?```\n)", r"(?=\n- \*\*Sets)"
    if name == OVERVIEW:
        start, end = "(<!-- overview -->\n)", "(?=\n<!-- overview end -->)"
    return re.sub(f"{start}.*?{end}", lambda m: f"{m[1]}\n{block(name, found)}\n", text, count=1, flags=re.DOTALL)


def draw(name: str, found: Mapping[str, Measured]) -> bytes:
    """Returns the SVG of a page's picture."""
    with tempfile.TemporaryDirectory() as folder, canvas.vectors() as drawn:
        path = pathlib.Path(folder, f"{name}.png")
        if name == OVERVIEW:
            _overview(path, differences(found), len(found[PLAIN].seeds))
        elif name == CALIBRATED:
            _reliability(path)
        else:
            _classes(path, name, found)
    return drawn[path.name]


def _classes(path: pathlib.Path, name: str, found: Mapping[str, Measured]) -> None:
    """Draws the accuracy of each class; all pages have the same axes, so that one can compare them."""
    figure = canvas.figure(5.0, 3.2)
    axes = figure.subplots()
    lines = dict.fromkeys((PLAIN, name))
    places = np.arange(len(found[PLAIN].names))
    for index, label in enumerate(lines):
        accuracy = found[label].accuracy
        side = (2 * index - 1) if len(lines) > 1 else 0
        colour = canvas.GREY if label == PLAIN else canvas.COLOURS[1]
        look: dict[str, Any] = {"ls": "", "color": colour, "mew": 0, "clip_on": False}
        beside = np.tile(places + side * SEEDS + (not side) * SEEDS / 2, len(accuracy))
        dots = axes.plot(beside, accuracy.ravel(), marker="o", ms=3, alpha=0.6, **look)
        means = axes.plot(places + side * MEANS, accuracy.mean(axis=0), marker="oD"[index], ms=6, label=label, **look)
        dots[0].set_gid(f"seeds of {label}")
        means[0].set_gid(f"means of {label}")
    canvas.finish(axes, "", _below(found, lines), "test accuracy (%)")
    axes.set_xticks(places, _ticks(found, lines), fontsize=8)
    axes.set_xlim(-0.6, len(places) - 0.4)
    lowest = min(of.accuracy.min() for of in found.values())
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylim(10 * np.floor(lowest / 10) - 2, 102)
    axes.tick_params(axis="x", length=0)
    canvas.mark_groups(axes, group_spans(found[PLAIN].counts), "x")
    axes.legend(fontsize=9, frameon=False, loc="lower center", handletextpad=0.2)
    canvas.save(figure, path)


def _ticks(found: Mapping[str, Measured], lines: Iterable[str]) -> list[str]:
    """Returns the name of each class, and below it its training images; those of each method if they differ."""
    counts = dict.fromkeys(tuple(found[label].counts.tolist()) for label in lines)
    return ["\n".join([name, *(str(of[c]) for of in counts)]) for c, name in enumerate(found[PLAIN].names)]


def _below(found: Mapping[str, Measured], lines: Iterable[str]) -> str:
    equal = len({tuple(found[label].counts.tolist()) for label in lines}) == 1
    return "class, training images" if equal else f"class, training images of {', of '.join(lines)}"


def _reliability(path: pathlib.Path) -> None:
    found = {"before": bins()[PLAIN], "after": bins()[CALIBRATED]}
    errors = {name: mean_and_deviation([calibration_error(one) for one in of]) for name, of in found.items()}
    reliability.draw(path, {name: of.sum(axis=0) for name, of in found.items()}, errors, "")


def calibration_error(of: np.ndarray) -> float:
    """Returns the expected calibration error, a share, of [3, bins] as in `RunRecord.calibration`."""
    images, confidence, correct = of
    return float(np.abs(confidence - correct).sum() / images.sum())


def _overview(path: pathlib.Path, apart: Mapping[str, np.ndarray], seeds: int) -> None:
    """Draws each method's mean difference from `ce` with its interval, and the seeds."""
    figure = canvas.figure(5.0, 0.9 + 0.185 * len(apart))
    axes = figure.subplots()
    ends = {name: paired.interval(of)[1:] for name, of in apart.items()}
    # One interval that is wider than all others would make these too small to read: it is cut, between two arrows.
    others = sorted(ends.values(), key=np.ptp)[:-1]
    left, right = (end(np.concatenate([*others, *apart.values()])) for end in (np.min, np.max))
    for row, (name, of) in enumerate(apart.items()):
        low, high = ends[name]
        colour = canvas.COLOURS[2] if low > 0 else canvas.COLOURS[1] if high < 0 else canvas.GREY
        axes.plot([max(low, left), min(high, right)], [row, row], color=colour, lw=1.4, solid_capstyle="butt")
        for cut, at, arrow in ((low < left, left, "<"), (high > right, right, ">")):
            if cut:
                axes.plot(at, row, marker=arrow, ms=5, color=colour, mew=0)
        axes.plot(of, np.full(len(of), row), ls="", marker="|", ms=5, color=colour, alpha=0.7)
        axes.plot(of.mean(), row, ls="", marker="o", ms=5, color=colour, mew=0, gid=f"mean of {name}")
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(apart)), list(apart), fontsize=8)
    axes.set_ylim(len(apart) - 0.4, -0.6)
    canvas.finish(axes, "", f"balanced test accuracy minus {PLAIN}, points (n = {seeds} seeds)", "", grid="x")
    axes.tick_params(axis="y", length=0)
    canvas.save(figure, path)


def _read(name: str) -> list[dict[str, str]]:
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _pages() -> dict[str, pathlib.Path]:
    return {path.stem: path for path in sorted(HERE.glob("*.md")) if path.stem != "README"}


def main() -> None:
    """Draws all pictures, and shows them on the pages."""
    found = measured()
    OUT.mkdir(parents=True, exist_ok=True)
    for name, path in {**_pages(), OVERVIEW: HERE / "README.md"}.items():
        (OUT / f"{name}.svg").write_bytes(draw(name, found))
        path.write_text(with_picture(name, path.read_text(), found))


if __name__ == "__main__":
    main()
