"""The pages of methods: each name has one, and their keys, figures and outputs are what the code and the runs give."""

import pathlib
import re
import runpy
import shlex

import pytest

from cbjax import config as configs
from cbjax.cli.arguments import parse
from cbjax.config.methods import METHODS, keys_of
from cbjax.config.parts import STAGES
from cbjax.config.reading import complete
from cbjax.config.schema import KEYS, accept
from cbjax.config.stages import second_stage

FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "methods"
FILL = runpy.run_path(str(FOLDER / "fill.py"))
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md")) if path.stem != "README"}
INDEX = (FOLDER / "README.md").read_text()
OTHERS = {"temperature", "thresholds", "smote"}  # which no key names


def test_every_method_has_a_page_and_a_row():
    assert PAGES.keys() == {*METHODS, *OTHERS, *STAGES[1:]}
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\)", INDEX, re.MULTILINE)
    assert sorted(rows) == [(name, name) for name in PAGES]


def test_the_figures_are_those_of_the_runs():
    known = FILL["figures"]()
    for name, text in PAGES.items():
        if name in known:
            assert f"- **Ours:** {known[name][0]}" in text, f"{name}: run docs/methods/fill.py"
    assert FILL["filled_index"](INDEX, PAGES, known) == INDEX, "run docs/methods/fill.py"


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
