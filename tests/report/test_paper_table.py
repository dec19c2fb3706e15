"""The table of a sweep beside the paper's: figures recomputed, gaps named, and the files of `configs/sweeps`."""

import csv
import json
import shlex
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbjax.cli import arguments, main
from cbjax.host.text import escape
from cbjax.report import rows, sweep_plots
from cbjax.report.paper_table import paper_page, paper_table
from cbjax.report.sweep_table import cells_of, read_setting
from cbjax.sweeps import file
from cbjax.variants import Sweep, Table, choices, product, seeds

FILES = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.py"))
PAPER = {("CE", ""): {"10": (5.0, 0.5), "100": (9.0, None)}, ("EQL", ""): {"10": (4.0, None)}}
SWEEP = Sweep(
    "digits_lt",
    product(
        choices("imbalance", {"100": {}, "10": {}}),
        choices("method", {"CE": {}, "CDB": {}}),
        choices("setting", {"": {}}),
        seeds(2),
    ),
    Table("A table", ("method", "setting"), "imbalance", "error", PAPER, notes=("A note.",)),
)
FIGURES = {("CE", "10"): (6.0, 8.0), ("CE", "100"): (9.5, 9.5), ("CDB", "10"): (3.0,)}


def measured():
    blank = dict.fromkeys(rows.FIELDS, "") | {"metric": "error", "seconds": "1800", "device": "1 x cpu"}
    return [
        {**blank, "method": method, "cell": cell, "seed": str(seed), "last": str(figure), "best": str(figure - 1)}
        for (method, cell), figures in FIGURES.items()
        for seed, figure in enumerate(figures)
    ]


def test_cells_hold_mean_deviation_n_and_the_paper_s_figure():
    header, body = paper_table(file.table_as_json(SWEEP), measured(), "last")
    assert header == ["method, setting \\ imbalance", "10", "100"]
    assert body == [
        ["CE", f"7.00 ± {statistics.stdev((6, 8)):.2f} (2) [5.00 ± 0.50]", "9.50 ± 0.00 (2) [9.00]"],
        ["CDB", "3.00 (1)", "–"],
        ["EQL", "[4.00]", "–"],
    ]
    _, best = paper_table(file.table_as_json(SWEEP), measured(), "best")
    assert best[1] == ["CDB", "2.00 (1)", "–"]


@pytest.mark.parametrize(
    ("printed", "columns"),
    [(("20", "10"), ["2", "5", "10", "20"]), (("20", "10", "5", "2", "1"), ["20", "10", "5", "2", "1"]), ((), None)],
)
def test_rows_and_columns_are_the_paper_s_if_it_has_all_of_them_else_the_sweep_s(printed, columns):
    paper = {("CDB",): dict.fromkeys(printed, (5.0, None)), ("CE",): {}, ("EQL",): {}}
    runs = product(
        choices("method", {"CE": {}, "CDB": {}}), choices("imbalance", {name: {} for name in ("2", "5", "10", "20")})
    )
    layout = file.table_as_json(Sweep("digits_lt", runs, Table("T", ("method",), "imbalance", paper=paper)))
    assert layout["column_names"] == (columns or ["2", "5", "10", "20"])
    assert layout["row_names"] == [["CDB"], ["CE"], ["EQL"]]
    del paper[("CE",)]
    layout = file.table_as_json(Sweep("digits_lt", runs, Table("T", ("method",), "imbalance", paper=paper)))
    assert layout["row_names"] == [["CE"], ["CDB"], ["EQL"]]


def test_the_page_names_what_is_far_from_the_paper_and_what_it_cost():
    page = paper_page(file.table_as_json(SWEEP), measured(), "mine")
    assert "More than 1.5 points from the paper at the last epoch: CE at 10 (+2.0)." in page
    assert "A note." in page and "5 runs; 2.5 hours of training, on 1 x cpu." in page
    assert page.index("## Last epoch") < page.index("## Best epoch")
    assert "No run has finished." in paper_page(file.table_as_json(SWEEP), [], "mine")
    page = paper_page(file.table_as_json(SWEEP), [], "mine", failed={"a": "it diverged"}, num_runs=8)
    assert "No run has finished, 1 of 8 failed." in page


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_figure_of_the_paper_has_its_row_and_column(path, tmp_path):
    """All sweeps that come with cbjax resolve, in each recipe that their heads name."""
    (tmp_path / "results.json").write_text("{}")
    recipes = [word for word in path.read_text().split() if word.startswith(f"--config={path.stem}:")]
    for name in dict.fromkeys([str(path), *(f"{path}:{word.split(':')[1].strip(',.')}" for word in recipes)]):
        begun = [f"stage.source={tmp_path}"] if name.endswith(":oltr") else []  # some finished run
        sweep, runs = file.load(name, begun)
        assert len({run.name for run in runs}) == len(runs)
        layout = file.table_as_json(sweep)
        if layout is None:
            continue
        filled = [names for run in runs for _, names in cells_of(layout["metric"], layout["columns"], run.labels)]
        own = {(tuple(names[axis] for axis in layout["rows"]), names[layout["columns"]]) for names in filled}
        for one in layout["paper"]:
            # A method that cbjax does not have yet has only the paper's figures.
            same_method = {row for row, _ in own if row[0] == one["row"][0]}
            assert not same_method or (tuple(one["row"]), one["column"]) in own, (name, one)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sweep of MNIST's table 2 with made-up figures, as its folder would be."""
    folder = tmp_path_factory.mktemp("made")
    described, runs = file.load("cdb_table2:short")
    layout = file.table_as_json(described)
    listed = [{"name": run.name, "labels": dict(run.labels), "config": f"{i:016x}"} for i, run in enumerate(runs)]
    blank = dict.fromkeys(rows.FIELDS, "") | {"metric": "error", "seconds": "240", "device": "1 x cpu"}
    figures = [
        blank
        | {"method": run.labels["method"], "setting": run.labels["setting"], "cell": run.labels["ratio"]}
        | {"seed": run.labels["seed"], "last": f"{i % 7:.1f}", "best": f"{i % 5:.1f}", "config": listed[i]["config"]}
        for i, run in enumerate(runs)
    ]
    rows.add(folder / "results_1_of_2.csv", figures[::2])
    rows.add(folder / "results_2_of_2.csv", figures[1::2])
    description = {"name": "cdb_table2:short", "config": "mnist_binary", "table": layout, "runs": listed}
    (folder / "sweep.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def swept(made, tmp_path):
    """The sweep's folder, for one test alone."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    description = json.loads((tmp_path / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps({**description, "files": [str(tmp_path / "results.csv")]}))
    return tmp_path


def test_a_sweep_s_report_comes_from_the_rows_of_all_shards(swept, capsys):
    assert main(["report", str(swept)]) == 0
    shown = capsys.readouterr().out
    assert "CDB table 2" in shown and "(3)" in shown and "[4.03]" in shown
    page = (swept / "report.md").read_text()
    assert "105 runs; 7.0 hours of training" in page and "A short form: 800 epochs" in page
    for name in ("matrix.png", "settings.png", "weights_by_difficulty.png"):
        assert f"]({name})" in page
        with Image.open(swept / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    assert "effective_number.png" not in page
    assert main(["report", str(swept)]) == 0 and (swept / "report.md").read_text() == page


def make_weighted(place, weights, difficulty=True):
    """Fabricates what a report reads of a run's class weights."""
    place.mkdir(parents=True)
    config = {"weights": {"name": "difficulty" if difficulty else "uniform"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "data.json").write_text(json.dumps({"class_names": ["4", "9"], "counts": [5, 995]}))
    lines = [{"step": e, "epoch": e, "class_weights": one} for e, one in enumerate(weights, start=1)]
    (place / "class_weights.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_sweep_s_report_names_the_runs_whose_weights_swing(swept):
    names = [run["name"] for run in json.loads((swept / "sweep.json").read_text())["runs"]]
    equal, back_and_forth = [[1.0, 1.0]] * 8, [[1.8, 0.2], [0.2, 1.8]] * 4
    make_weighted(swept / names[0], equal)
    make_weighted(swept / names[1], equal, difficulty=False)
    for name in names[2:4]:
        make_weighted(swept / name, back_and_forth)
    make_weighted(swept / names[4], back_and_forth)
    (swept / names[4] / "class_weights.jsonl").write_text('{"epoch": 1}\n' * 8)  # damaged: the others are named
    assert main(["report", str(swept)]) == 0
    (line,) = [line for line in (swept / "report.md").read_text().splitlines() if "swing" in line]
    assert line.startswith("The class weights of 2 of 3 CDB runs swing: ")
    assert all(escape(name) in line for name in names[2:4]) and "docs/cdb" in line
    for name in names[5:30]:
        make_weighted(swept / name, back_and_forth)
    assert main(["report", str(swept)]) == 0
    assert "of 27 of 28 CDB runs swing" in (page := (swept / "report.md").read_text()) and " and 7 others; see" in page


@pytest.mark.parametrize("width", [20, pytest.param(130, marks=pytest.mark.slow)])
def test_a_terminal_cuts_no_figure(swept, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["report", str(swept)]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown and shown.count("[") == shown.count("]") == 36  # the paper's 35 figures, and the title
    widest = max(len(line) for line in shown.splitlines()[:-1])
    assert widest <= max(width, 74), "the words of a line take 74 columns"


def test_a_sweep_s_report_has_its_cells_as_csv_and_may_go_elsewhere(swept, tmp_path_factory):
    (swept / "0.9" / "broken").mkdir(parents=True)
    out = tmp_path_factory.mktemp("paper") / "table"
    assert main(["report", str(swept), f"--out={out}"]) == 0
    assert {path.name for path in out.iterdir()} == {"report.md", "table.csv", "matrix.png", "settings.png"} | {
        "weights_by_difficulty.png"
    }
    assert not (swept / "report.md").exists()
    lines = csv.DictReader((out / "table.csv").read_text().splitlines())
    cells = {(row["row"], row["ratio"]): row for row in lines}
    kept = [row for path in swept.glob("results_*.csv") for row in rows.read(path)]
    assert len(cells) == 35
    for (name, ratio), cell in cells.items():
        mine = [row for row in kept if (f"CDB-CE {row['setting']}", row["cell"]) == (name, ratio)]
        assert int(cell["n"]) == len(mine) == 3
        for checkpoint in ("last", "best"):
            figures = [float(row[checkpoint]) for row in mine]
            assert float(cell[checkpoint]) == pytest.approx(np.mean(figures), abs=1e-4)
            assert float(cell[f"{checkpoint}_std"]) == pytest.approx(np.std(figures, ddof=1), abs=1e-4)
    assert (cells["CDB-CE tau 2", "0.995"]["paper"], cells["CDB-CE tau 2", "0.995"]["paper_std"]) == (
        "3.6500",
        "0.4100",
    )


def test_rows_that_another_table_shares_stand_under_this_table_s_names_and_only_with_its_metric(swept):
    kept = rows.read(swept / "results_1_of_2.csv")
    (swept / "results_1_of_2.csv").unlink()
    rows.add(swept / "results_1_of_2.csv", [{**row, "method": "another", "setting": "", "cell": "x"} for row in kept])
    rows.add(swept / "results_1_of_2.csv", [{**row, "metric": "accuracy", "last": "99"} for row in kept])
    assert len(rows.read(swept / "results_1_of_2.csv")) == 2 * len(kept)
    assert main(["report", str(swept)]) == 0
    cells = list(csv.DictReader((swept / "table.csv").read_text().splitlines()))
    assert (
        len(cells) == 35 and {cell["n"] for cell in cells} == {"3"} and max(float(cell["last"]) for cell in cells) < 7
    )


def test_a_report_says_which_file_of_rows_is_gone(swept):
    description = json.loads((swept / "sweep.json").read_text())
    (swept / "sweep.json").write_text(json.dumps({**description, "files": ["/elsewhere/kept.csv"]}))
    assert main(["report", str(swept)]) == 0
    assert "Rows are missing" not in (swept / "report.md").read_text(), "each run has its row"
    (swept / "results_1_of_2.csv").unlink()
    assert main(["report", str(swept)]) == 0
    assert "Rows are missing, because these files are gone: /elsewhere/kept.csv" in (
        swept / "report.md"
    ).read_text().replace("\\", "")


@pytest.mark.parametrize("file", [pytest.param("kept.csv", marks=pytest.mark.slow), "/before/it/moved/kept.csv"])
def test_rows_are_found_in_a_folder_that_moved(swept, file):
    description = json.loads((swept / "sweep.json").read_text())
    (swept / "sweep.json").write_text(json.dumps({**description, "files": [file]}))
    (swept / "results_1_of_2.csv").rename(swept / "kept.csv")
    assert main(["report", str(swept)]) == 0
    page = (swept / "report.md").read_text()
    assert "105 runs; 7.0 hours" in page and "Rows are missing" not in page


def test_the_report_stays_if_the_rows_of_finished_runs_are_gone(swept, capsys):
    run = json.loads((swept / "sweep.json").read_text())["runs"][1]["name"]
    assert main(["report", str(swept)]) == 0
    before = {path.name: path.read_bytes() for path in swept.glob("*.*") if path.suffix in (".md", ".png")}
    for path in swept.glob("results_*.csv"):
        path.unlink()
    (swept / run).mkdir(parents=True)
    (swept / run / "results.json").write_text('{"finished": true}')
    assert main(["report", str(swept)]) == 2
    assert {path.name: path.read_bytes() for path in swept.glob("*.*") if path.suffix in (".md", ".png")} == before
    said = capsys.readouterr().err
    assert f"runs such as {run} have finished, but the rows with their figures are gone from" in said
    assert f"`cbjax sweep --config=cdb_table2:short --workdir={swept}`" in said


def test_a_sweep_that_is_not_done_says_so_and_a_method_without_figures_keeps_its_row(swept, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "130")
    description = json.loads((swept / "sweep.json").read_text())
    left = [run for run in description["runs"] if run["labels"]["setting"] == "tau 7"]
    for path in swept.glob("results_*.csv"):
        kept = [row for row in rows.read(path) if row["setting"] != "tau 7"]
        path.unlink()
        rows.add(path, kept)
    (swept / left[0]["name"]).mkdir(parents=True)
    (swept / left[0]["name"] / "failed.json").write_text(json.dumps({"error": "it diverged", "diverged": True}))
    layout = {**description["table"], "paper": []}
    (swept / "sweep.json").write_text(json.dumps({**description, "table": layout}))
    assert main(["report", str(swept)]) == 0
    page, shown = (swept / "report.md").read_text(), capsys.readouterr().out
    assert (
        "90 of 105 runs, 1 failed; 6.0 hours of training, on 1 x cpu." in page and "90 of 105 runs, 1 failed." in shown
    )
    assert page.count("| CDB-CE tau 7 | – | – | – | – | – |") == 2 and "CDB-CE tau 7" in shown
    # What is not printed is not spoken of.
    assert "the paper" not in shown and "paper's figure" not in page


def test_a_grid_of_betas_is_drawn_with_each_method_and_classes_that_have_images(tmp_path, capsys):
    numbers = {f"beta {beta}": {"weights.name": "class_balanced", "weights.beta": beta} for beta in (0.99, 0.9)}
    runs = product(
        choices("cell", {f"set {i}": {} for i in range(14)}),
        choices("method", {"CB softmax": {}, "CB | focal": {"loss.name": "focal"}}),
        choices("setting", numbers),
    )
    paper = {("CB softmax", "beta 0.99"): {"set 1": (5.0, None)}}
    layout = file.table_as_json(Sweep("digits_lt", runs, Table("Grid", ("method", "setting"), "cell", paper=paper)))
    assert layout["row_names"][:2] == [["CB softmax", "beta 0.9"], ["CB softmax", "beta 0.99"]]
    listed = [{"name": file.folder(one.labels), "labels": one.labels, "config": str(i)} for i, one in enumerate(runs)]
    description = {"name": "grid", "config": "digits_lt", "table": layout, "runs": listed}
    (tmp_path / "sweep.json").write_text(json.dumps(description))
    blank = dict.fromkeys(rows.FIELDS, "") | {"metric": "accuracy", "seconds": "1", "last": "50"}
    rows.add(tmp_path / "results.csv", [{**blank, "config": one["config"]} for one in listed])
    for run, content in zip(listed[1:], ("", '{"counts": [100, 10, 0]}'), strict=False):
        (tmp_path / run["name"]).mkdir(parents=True)
        (tmp_path / run["name"] / "data.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("50.00") == 56, "no figure is cut"
    page = (tmp_path / "report.md").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == set(sweep_plots.PICTURES) - {"weights_by_difficulty.png"}
    assert f"data of {listed[2]['name']}" in page.replace("\\_", "_") and "CB \\| focal beta 0.9 |" in page
    assert "Not drawn by beta, since a picture has 12 panels: cell set 12, cell set 13." in page


def test_a_sweep_s_report_names_the_runs_that_failed(swept):
    first, second, third = json.loads((swept / "sweep.json").read_text())["runs"][:3]
    for run in (first, second, third):
        (swept / run["name"]).mkdir(parents=True)
        (swept / run["name"] / "failed.json").write_text(json.dumps({"error": "it diverged", "diverged": True}))
    (swept / third["name"] / "failed.json").write_text("")
    # The first has a row: it failed once and finished later.
    for path in swept.glob("results_*.csv"):
        kept = [row for row in rows.read(path) if row["config"] not in (second["config"], third["config"])]
        path.unlink()
        rows.add(path, kept)
    (swept / "results_of_something.csv").write_text("else\n")
    assert main(["report", str(swept)]) == 0
    page = (swept / "report.md").read_text().replace("\\", "")
    assert f"Failed:\n\n- {second['name']}: it diverged\n- {third['name']}: the reason is lost" in page
    assert f"- {first['name']}" not in page


def test_a_damaged_description_is_named(swept, capsys):
    (swept / "sweep.json").write_text("")
    assert main(["report", str(swept)]) == 2
    assert "sweep.json is not JSON" in capsys.readouterr().err


def test_a_line_has_one_colour_in_all_panels_and_the_legend_all_lines(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(sweep_plots.canvas, "save", lambda figure, path: drawn.setdefault("figure", figure))
    first = sweep_plots.Panel({"CB": {0.5: [1.0], 1.0: [2.0]}}, {"CDB": [3.0]}, {})
    second = sweep_plots.Panel(
        {"CB": {0.5: [1.0], 1.0: [2.0]}, "CB focal": {1.0: [5.0, 7.0]}},
        {"CE": [4.0], "CDB": [3.0]},
        {"CB": {1.0: 1.5}},
    )
    sweep_plots.against_setting(tmp_path / "a.png", "beta", {"1": first, "2": second}, "error")
    lines = drawn["figure"].axes[1].get_lines()
    assert [list(line.get_ydata()) for line in lines if line.get_label() == "CB, the paper"] == [
        pytest.approx([np.nan, 1.5], nan_ok=True)
    ]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in lines if list(line.get_ydata()) == [6.0]] == [
        ([1], [6.0])
    ]
    panels = [{line.get_label(): line.get_color() for line in axes.get_lines()} for axes in drawn["figure"].axes]
    assert panels[0]["CDB"] == panels[1]["CDB"] != panels[1]["CE"]
    texts = [text.get_text() for text in drawn["figure"].legends[0].get_texts()]
    assert sorted(texts) == ["CB", "CB focal", "CB, the paper", "CDB", "CE"]
    # Two names that were cut to the same text are two lines.
    figure = sweep_plots.canvas.figure(2, 2)
    axes = figure.subplots()
    for height in (1, 2):
        axes.plot([0, 1], [height, height], label="same")
    sweep_plots.canvas.legend_beside(figure, "")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["same", "same"]


def test_measured_rows_belong_to_runs_that_the_sweeps_still_have():
    """Each row of the repository says by which command it was measured, and that command still has its run.

    But for second stages and thresholds, and figures of classes: their commands need finished runs, and are in the
    folder's README.
    """
    others = {"methods_after", "methods_classes", "methods_reliability"}
    files = [path for path in (FILES[0].parent / "results").glob("*.csv") if path.stem not in others]
    assert files
    known = {}
    for row in (row for path in files for row in rows.read(path)):
        if row["table"] not in known:
            options, overrides = arguments.parse(["sweep", *shlex.split(f"--config={row['table']}")])
            known[row["table"]] = {run.identity: run for run in file.load(options.config, overrides)[1]}
        assert known[row["table"]][row["config"]].labels["seed"] == row["seed"]


def test_settings_are_read_from_their_names():
    assert read_setting("beta 0.9999") == ("beta", 0.9999)
    assert read_setting("tau 2") == ("tau", 2.0)
    assert read_setting("version 1.2.3") is None
    assert read_setting("dynamic tau") is None and read_setting("") is None
