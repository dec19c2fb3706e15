"""The pages of methods: each name has one, and their keys, figures and outputs are what the code and the runs give."""

import pathlib
import re
import runpy
import shlex
import types
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from cbjax import config as configs
from cbjax.cli.arguments import parse
from cbjax.config.methods import METHODS, keys_of
from cbjax.config.parts import STAGES
from cbjax.config.reading import complete
from cbjax.config.schema import KEYS, accept
from cbjax.config.stages import second_stage
from cbjax.report import rows
from cbjax.training import scores

FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "methods"
FILL = runpy.run_path(str(FOLDER / "fill.py"))
PICTURES = runpy.run_path(str(FOLDER / "pictures.py"))
MEASURED = PICTURES["measured"]()
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md")) if path.stem != "README"}
INDEX = (FOLDER / "README.md").read_text()
SVG = "{http://www.w3.org/2000/svg}"
OTHERS = {"temperature", "thresholds", "smote"}  # which no key names


def test_every_method_has_a_page_and_a_row():
    assert PAGES.keys() == {*METHODS, *OTHERS, *STAGES[1:]}
    listed = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\)", INDEX, re.MULTILINE)
    assert sorted(listed) == [(name, name) for name in PAGES]


def test_commands_say_of_which_methods_scores_do_not_sum_to_1():
    for name in METHODS:
        said = scores.meaning(types.SimpleNamespace(config=configs.load("digits_lt", [f"method={name}"])))
        assert (said is not None) == ("**Scores:** one-vs-rest" in PAGES[name]), name


def test_the_figures_are_those_of_the_runs():
    known = FILL["figures"]()
    for name, text in PAGES.items():
        if name in known:
            assert f"- **Ours:** {known[name][0]}" in text, f"{name}: run docs/methods/fill.py"
    assert FILL["filled_index"](INDEX, PAGES, known) == INDEX, "run docs/methods/fill.py"


def test_the_figures_of_classes_are_those_of_the_runs():
    results = [row for name in FILL["FILES"] for row in rows.read(FILL["RESULTS"] / name)]
    expected = {(row["method"], row["seed"]): float(row["last"]) for row in results if row["method"] in PAGES}
    assert {(name, seed): value for name, of in MEASURED.items() for seed, value in of.balanced.items()} == {
        key: pytest.approx(value, abs=1e-3) for key, value in expected.items()
    }
    before, after = PICTURES["bins"]().values()
    assert before[:, ::2].sum(axis=2)[:, 1] == pytest.approx([5 * value for value in MEASURED["ce"].balanced.values()])
    assert after[:, ::2].sum(axis=2) == pytest.approx(before[:, ::2].sum(axis=2)), "images, and those predicted right"


def test_every_page_shows_its_picture():
    pictures = {path.stem: path for path in PICTURES["OUT"].iterdir()}
    assert pictures.keys() == {*PAGES, "overview"}
    assert sum(path.stat().st_size for path in pictures.values()) < 2**20
    for name, text in {**PAGES, "overview": INDEX}.items():
        assert text.count(f"](../pictures/methods/{name}.svg)\n\n*") == 1
        assert PICTURES["with_picture"](name, text, MEASURED) == text, "run docs/methods/pictures.py"


@pytest.mark.parametrize("name", sorted(PAGES.keys() - {"temperature"}))
def test_a_picture_shows_the_figures_of_the_classes(name):
    figure = ET.parse(PICTURES["OUT"] / f"{name}.svg").getroot()
    axis = [(float(label), heights(tick)[0]) for tick, label in y_ticks(figure)]
    for label in {"ce", name}:
        accuracy = MEASURED[label].accuracy
        for drawn, values in (("means", accuracy.mean(axis=0)), ("seeds", accuracy.ravel())):
            marks = figure.find(f".//*[@id='{drawn} of {label}']")
            expected = np.interp(values, *np.transpose(axis), left=np.nan)
            assert heights(marks) == pytest.approx(expected, abs=0.01), "run docs/methods/pictures.py"


def test_the_overview_shows_the_mean_differences_from_the_highest_down():
    figure = ET.parse(PICTURES["OUT"] / "overview.svg").getroot()
    means = [
        (group.get("id").removeprefix("mean of "), float(next(group.iter(f"{SVG}use")).get("x")))
        for group in figure.iter(f"{SVG}g")
        if group.get("id", "").startswith("mean of ")
    ]
    differences = {name: of.mean() for name, of in PICTURES["differences"](MEASURED).items()}
    assert [name for name, _ in means] == list(differences) == sorted(differences, key=lambda name: -differences[name])
    values = list(differences.values())
    slope, start = np.polyfit(values, [x for _, x in means], 1)
    assert slope > 0 and [x for _, x in means] == pytest.approx(start + slope * np.array(values), abs=0.01)


def test_the_picture_of_temperature_shows_its_errors():
    text = (PICTURES["OUT"] / "temperature.svg").read_text()
    for when, of in zip(("before", "after"), PICTURES["bins"]().values(), strict=True):
        error = np.mean([PICTURES["calibration_error"](one) for one in of])
        assert f">{when}, ECE {100 * error:.1f} ± " in text


@pytest.mark.parametrize("name", PAGES)
def test_the_code_prints_what_the_page_shows(name):
    assert "```text\n" in PAGES[name]
    assert FILL["filled_page"](name, PAGES[name], {}) == PAGES[name], "run docs/methods/fill.py"


def test_the_keys_are_those_that_the_method_sets():
    first = complete(configs.load("digits_lt"))
    for name in PAGES.keys() - OTHERS:
        given = dict(re.findall(r"`([\w.]+)=([^`]*)`", point(name, "Sets").split(";")[0]))
        if name in METHODS:
            plain = {} if name == "ce" else keys_of("ce")
            expected = {key: value for key, value in keys_of(name).items() if plain.get(key) != value}
        else:
            second = second_stage(first, name, "runs/ce")
            expected = {key: second[key] for key in ("stage.name", *given)}
        assert accept(given, as_text=True) == accept(expected), name


def test_numbers_to_tune_have_the_defaults_that_the_page_gives():
    for name in PAGES:
        for key, value in re.findall(r"`([a-z]+(?:\.\w+)?)`[^`]*? \(([^)]*)\)", point(name, "Tune")):
            assert accept({key: value}, as_text=True)[key] == KEYS[key].default, f"{name}: {key}"


def test_the_commands_are_read():
    for name, text in PAGES.items():
        lines = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].splitlines()
        for options, overrides in (parse(shlex.split(line)[1:]) for line in lines):
            if options.name == "train":
                assert name not in METHODS or overrides[0] == f"method={name}"
                configs.load(options.config, overrides)
            if options.name == "stage2":
                assert options.method == name


def point(name, of):
    return re.search(rf"- \*\*{of}:\*\* (.*?)(?=\n- \*\*|\n\n)", PAGES[name], re.DOTALL)[1]


def y_ticks(figure):
    """The ticks of the vertical axis, with their labels."""
    ticks = [group for group in figure.iter(f"{SVG}g") if group.get("id", "").startswith("ytick_")]
    return [(tick, next(tick.iter(f"{SVG}text")).text) for tick in ticks]


def heights(group):
    """The vertical places of a group's marks."""
    return [float(mark.get("y")) for mark in group.iter(f"{SVG}use")]
