"""The pages of the site and the README: their code runs, their commands are read, and names and places are there."""

import contextlib
import importlib
import io
import pathlib
import pkgutil
import re
import shlex

import pytest

from cbjax import config as configs
from cbjax.cli.arguments import make_parser, parse
from cbjax.report.table import METRICS

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
WRITTEN = sorted(path for path in DOCS.rglob("*.md") if path.parent.name not in {"methods", "notebooks"})
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *WRITTEN]}
FILES = {
    "docs/howto/own_data.md": "clip_nets.py",
    "docs/howto/own_network.md": "nets.py",
    "docs/howto/own_loss.md": "losses.py",
    "docs/howto/sweeps.md": "mine.py",
}
# Each trains a network, which tests elsewhere do.
TRAINS = ("cbjax.train(",)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", text, re.DOTALL | re.MULTILINE)


def write_file(page, folder):
    """Writes the file that a page tells its reader to write: the code that begins with its name, or the first code."""
    if page in FILES:
        codes = [code for code, _ in blocks(PAGES[page], "python")]
        named = [code for code in codes if code.startswith(f"# {FILES[page]}\n")]
        (folder / FILES[page]).write_text((named or codes)[0])


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(PAGES[page], "python")])
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    for code, shown in blocks(PAGES[page], "python"):
        if any(word in code for word in TRAINS) and not request.config.getoption("--slow"):
            compile(code, page, "exec")
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, names)
        assert out.getvalue().endswith(shown), f"{page} shows\n{shown}but its code prints\n{out.getvalue()}"


@pytest.mark.parametrize("path", [*PAGES, "CONTRIBUTING.md", "launch/README.md", "configs/sweeps/results/README.md"])
def test_commands_have_no_comments_behind_them(path):
    """A zsh at a terminal, as on macOS, takes `# a comment` for arguments."""
    for block, _ in blocks((ROOT / path).read_text(), "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            assert line.startswith("#") or not any(word.startswith("#") for word in line.split()), line


@pytest.mark.parametrize("page", [page for page in PAGES if "\ncbjax " in PAGES[page]])
def test_the_commands_of_a_page_work_when_pasted_in_order(page, tmp_path, monkeypatch):
    write_file(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    trained: dict = {}
    made = set()
    for block, _ in blocks(PAGES[page], "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("cbjax "):
                continue
            options, overrides = parse(shlex.split(line)[1:])
            if options.name == "train":
                config = configs.load(options.config, overrides)
                known = trained.setdefault(options.workdir, config)
                same = configs.difference(known, config)[1] in ([], ["num_epochs"])
                assert options.workdir is None or same or options.coordinator, f"{line}: another run is there"
            if options.name == "config" and options.config:
                configs.load(options.config, overrides)
            if options.name in ("train", "stage2", "sweep"):
                made.add(options.workdir)
            used = {"eval": ["workdir"], "predict": ["workdir"], "report": ["directories"]}.get(options.name, [])
            used += {"stage2": ["source"], "landscape": ["source", "to"]}.get(options.name, [])
            for name in used:
                value = getattr(options, name)
                paths = {
                    one[1] if isinstance(one, tuple) else one for one in (value if isinstance(value, list) else [value])
                }
                assert made.issuperset(paths), f"{line}: no command makes it"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page):
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (here / target).exists(), f"{page}: {target}"
    for name in re.findall(r"`((?:cbjax|configs|docs|launch|tests)/[\w/.]*)`", PAGES[page]):
        assert (ROOT / name).exists() or (DOCS / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_names_that_a_page_gives_are_there(page):
    for name in re.findall(r"`(cbjax(?:\.\w+)+)`", PAGES[page]):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            pytest.fail(f"{page}: there is no {name}")


def test_the_architecture_page_has_every_room_on_its_floor():
    page = PAGES["docs/architecture.md"]
    floors = importlib.import_module("tests.test_architecture")
    rows = re.findall(r"^\| (\d|beside) \| (.*?) \|", page, re.MULTILINE)
    named = {rank: set(re.findall(r"`cbjax/(\w+)", places)) for rank, places in rows}
    assert named.pop("beside") == {*floors.BESIDE}
    expected = {str(rank): floor for rank, floor in enumerate(floors.FLOORS) if floor != {"__main__"}}
    assert named == expected


def test_every_command_has_a_page():
    _, commands = make_parser()
    everything = "\n".join(PAGES.values())
    for name in commands:
        assert f"cbjax {name}" in everything, name


def test_every_page_is_in_a_list_of_pages():
    listed = set(re.findall(r"^[\w/]+$", PAGES["docs/index.md"], re.MULTILINE))
    pages = {str(path.relative_to(DOCS)).removesuffix(".md") for path in WRITTEN} - {"index"}
    assert listed - {"methods/README"} == pages


def test_the_page_of_figures_has_every_figure():
    for name, shown in {**METRICS, "macro_roc_auc": "–", "macro_pr_auc": "–"}.items():
        row = re.search(rf"^\|[^|]*`{name}`[^|]*\| (.*?) \|", PAGES["docs/figures.md"], re.MULTILINE)
        assert row is not None, name
        assert shown.partition(" (")[0] in row[1]
