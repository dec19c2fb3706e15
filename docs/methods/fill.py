"""Fills in what is measured or computed on the pages of methods: our figures, the output of code, the index's table.

Command: python docs/methods/fill.py
A page gives the rest of its row in the table: its first sentence, and the points Needs, Cost and Paper.
"""

import contextlib
import io
import pathlib
import re
import textwrap
from collections.abc import Mapping

from cbjax.report import paired, rows
from cbjax.report.table import NOTHING, mean_and_deviation

HERE = pathlib.Path(__file__).parent
RESULTS = HERE.parents[1] / "configs" / "sweeps" / "results"
FILES = ("methods.csv", "methods_smote.csv", "methods_after.csv")
GROUPS = {
    "Class weights": "ce inverse_frequency inverse_sqrt cb_softmax cb_sigmoid cb_focal cdb cdb_focal",
    "Losses": "focal softmax_focal poly ghm eql softmax_eql ldam ldam_drw balanced_softmax vs",
    "Sampling": "oversample undersample class_aware sqrt_sampling progressive deferred_resampling smote",
    "Mixed images": "mixup remix cutmix cmo",
    "Weights learned from a meta set": "l2rw mw_net",
    "Flat minima": "sam imbsam",
    "Second stage, from a finished run": "crt lws tau ncm oltr",
    "After training": "logit_adjustment temperature thresholds",
}
START, END = "<!-- table -->", "<!-- end -->"
HEADER = ("method", "what it does", "needs", "cost of a step", "the papers", "ours", "ours minus `ce`")


def figures() -> dict[str, tuple[str, str]]:
    """Returns for each measured method its mean ± standard deviation, and its paired difference from `ce`."""
    found: dict[str, dict[str, float]] = {}
    for row in (row for name in FILES for row in rows.read(RESULTS / name)):
        found.setdefault(row["method"], {})[row["seed"]] = float(row["last"])
    shown = {}
    for name, own in found.items():
        differences = [own[seed] - plain for seed, plain in sorted(found["ce"].items()) if seed in own]
        apart = NOTHING if name == "ce" or not differences else paired.describe(differences)
        shown[name] = mean_and_deviation([value / 100 for value in own.values()]), apart
    return shown


def filled_page(name: str, text: str, known: Mapping[str, tuple[str, str]]) -> str:
    """Returns the text of a method's page with our figures, and the output of its code below the code."""
    if name in known:
        figure, apart = known[name]
        line = f"- **Ours:** {figure}" + ("" if apart == NOTHING else f"; minus `ce`, seed by seed: {apart}")
        line = textwrap.fill(line, 120, subsequent_indent="  ", break_on_hyphens=False)
        text = re.sub(r"- \*\*Ours:\*\*.*?(?=\n- \*\*)", lambda _: line, text, count=1, flags=re.DOTALL)
    return re.sub(r"```python\n(.*?)```\n(?:\n```text\n.*?```\n)?", _with_output, text, flags=re.DOTALL)


def filled_index(text: str, pages: Mapping[str, str], known: Mapping[str, tuple[str, str]]) -> str:
    """Returns the text of the index with its table; `pages` are the texts of the pages by name."""
    parts = []
    for group, names in GROUPS.items():
        lines = [HEADER, ["---"] * len(HEADER), *(_row(name, pages[name], known) for name in names.split())]
        parts += [f"### {group}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    start, rest = text.split(START)
    return "\n\n".join([start + START, *parts, END + rest.split(END)[1]])


def _row(name: str, page: str, known: Mapping[str, tuple[str, str]]) -> list[str]:
    does = re.search(r"\n\n(.*?)\.\s", page, re.DOTALL)[1]
    points = {point: _point(page, point) for point in ("Needs", "Cost", "Paper", "Ours")}
    cost = re.match(r"[\d.]+", points["Cost"])
    ours, apart = known.get(name, (points["Ours"], NOTHING))
    cells = (does, points["Needs"].split(";")[0], cost[0] if cost else points["Cost"], points["Paper"], ours, apart)
    return [f"[`{name}`]({name}.md)", *(" ".join(cell.split()) for cell in cells)]


def _point(page: str, name: str) -> str:
    return re.search(rf"- \*\*{name}:\*\* (.*?)(?=\n- \*\*|\n\n)", page, re.DOTALL)[1].removesuffix(".")


def _with_output(block: re.Match) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(block[1], {})
    return f"```python\n{block[1]}```\n\n```text\n{output.getvalue()}```\n"


def main() -> None:
    """Writes all pages and the index in place."""
    known = figures()
    pages = {path.stem: path.read_text() for path in HERE.glob("*.md") if path.stem != "README"}
    for name, text in pages.items():
        pages[name] = filled_page(name, text, known)
        (HERE / f"{name}.md").write_text(pages[name])
    index = HERE / "README.md"
    index.write_text(filled_index(index.read_text(), pages, known))


if __name__ == "__main__":
    main()
