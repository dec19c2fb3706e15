"""A table with a column for each of several metrics: one run fills a row, its figures are those of the run."""

import csv
import json
import shutil

import pytest

from cbjax.cli import main
from cbjax.report import rows
from tests import clips, own_nets

TEXT = """
from cbjax.variants import Sweep, Table, choices, product, seeds

def get_sweep():
    runs = product(choices("method", {"CE": {}, "half | CE": {"optim.learning_rate": 0.05}}), seeds(1))
    metrics = {"top-1": "accuracy", "top-5": "top5_accuracy", "rare, precision": "rare_precision"}
    paper = {("CE",): {"top-1": (90.0, None), "rare, precision": (12.5, None)}, ("EQL",): {"top-5": (99.0, None)}}
    return Sweep("digits_lt", runs, Table("Several", ("method",), "figure", metrics, paper))
"""
KEYS = {"top-1": "accuracy", "top-5": "top5_accuracy", "rare, precision": "rare_precision"}
QUICK = ("evaluation.groups=rare=7,8,9", "num_epochs=1", "data.test=20", "devices=1")
QUICK += ("log.tensorboard=false", "log.report=false", f"model.name={own_nets.__file__}:linear")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    (folder / "mine.py").write_text(TEXT)
    assert train(folder) == 0 and main(["report", str(folder / "runs")]) == 0
    return folder


def train(folder):
    command = ["sweep", f"--config={folder / 'mine.py'}", f"--workdir={folder / 'runs'}", "--mode=loop"]
    return main([*command, *(f"--config.{one}" for one in QUICK)])


def measured(folder, method, key):
    return 100 * json.loads((folder / f"runs/{method}/seed_0/results.json").read_text())["last"]["test"][key]


def test_each_column_has_its_metric_of_the_runs(swept, capsys):
    table = list(csv.DictReader((swept / "runs/table.csv").read_text().splitlines()))
    cells = {(one["row"], one["figure"]): one for one in table}
    for column, key in KEYS.items():
        for method, folder in (("CE", "CE"), ("half | CE", "half_CE")):
            cell = cells[method, column]
            assert cell["n"] == "1" and float(cell["last"]) == pytest.approx(measured(swept, folder, key), abs=1e-3)
    assert cells["CE", "rare, precision"]["paper"] == "12.5000" and cells["EQL", "top-5"]["n"] == "0"
    page = (swept / "runs/report.md").read_text().replace("\\", "")
    assert "method  figure | top-1 | top-5 | rare, precision |" in page
    assert "figures on test, %" in page and "2 runs; " in page
    assert main(["report", str(swept / "runs")]) == 0
    assert "[12.50]" in capsys.readouterr().out


def test_the_report_shows_training_images_and_accuracy_of_each_class(swept):
    page = (swept / "runs/report.md").read_text()
    assert "![Training images and accuracy of each class](classes.png)" in page
    classes = list(csv.DictReader((swept / "runs/classes_by_method.csv").read_text().splitlines()))
    assert len(classes) == 20 and {one["method"] for one in classes} == {"CE", "half | CE"}
    shutil.copytree(swept / "runs", swept / "rows")
    for name in ("CE", "half_CE"):
        shutil.rmtree(swept / "rows" / name)
    assert main(["report", str(swept / "rows")]) == 0
    assert "2 runs; " in (page := (swept / "rows/report.md").read_text()) and "classes.png" not in page
    assert not (swept / "rows/classes.png").exists() and not (swept / "rows/classes_by_method.csv").exists()


def test_a_group_without_test_images_is_refused_before_training(tmp_path, capsys):
    clips.write_egtea(tmp_path / "EGTEA", verbs=clips.EGTEA_VERBS)
    command = ["sweep", "--config=cdb_table6", f"--config.data.root={tmp_path / 'EGTEA'}"]
    groups = "majority=0; minority=Crack"
    assert main([*command, f"--workdir={tmp_path / 'runs'}", f"--config.evaluation.groups={groups}"]) == 2
    assert "the table's metric minority_accuracy needs test images of the group minority" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_whose_row_of_one_metric_is_lost_gets_it_again(swept):
    path = swept / "runs/results.csv"
    kept = rows.read(path)
    assert len(kept) == 6 and {one["metric"] for one in kept} == set(KEYS.values())
    before = (swept / "runs/CE/seed_0/results.json").stat().st_mtime_ns
    path.unlink()
    rows.add(path, kept[1:])
    assert train(swept) == 0
    assert sorted(map(str, rows.read(path))) == sorted(map(str, kept))
    assert (swept / "runs/CE/seed_0/results.json").stat().st_mtime_ns == before, "it is not trained again"
