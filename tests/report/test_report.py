"""Reports of fabricated work directories: every figure is recomputed with NumPy, and every picture shows something."""

import copy
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cbjax.host import writers
from cbjax.report import one_run, plots, read, report, sections, table, table_for_terminal
from cbjax.report.methods import differing, group
from cbjax.report.read import ReportError, flatten
from cbjax.report.sections import PICTURES
from cbjax.report.table import describe_data

CONFIG = {
    "seed": 0,
    "num_epochs": 12,
    "batch_size": 32,
    "devices": None,
    "data": {"name": "digits", "seed": None, "imbalance": 20.0},
    "model": {"name": "digits_cnn"},
    "loss": {"name": "softmax", "gamma": 1.0},
    "weights": {"name": "uniform", "beta": 0.9999},
    "log": {"progress": "auto"},
}
METHODS = {
    "ce": {},
    "cb_focal": {"loss": {"name": "focal"}, "weights": {"name": "class_balanced"}},
    "cdb": {"weights": {"name": "difficulty"}},
}
KEYS = {
    "overall": "accuracy",
    "balanced": "balanced_accuracy",
    "many": "many_accuracy",
    "medium": "medium_accuracy",
    "few": "few_accuracy",
    "worst class": "worst_accuracy",
    "ECE": "ece",
}


def long_tail(largest, num_classes, imbalance):
    return [max(1, int(largest * imbalance ** (-c / (num_classes - 1)))) for c in range(num_classes)]


def weights_of(rule, counts, accuracy):
    if rule == "uniform":
        return np.ones(len(counts))
    weights = 1 / np.maximum(counts, 1) ** 0.8 if rule == "class_balanced" else np.maximum(1 - accuracy, 0.01) ** 1.5
    return weights * len(counts) / weights.sum()


def make_run(path, *, method="ce", seed=0, counts=None, names=None, tests=25, held_out=True, multi_label=False, **more):
    """Fabricates a finished work directory like those of `cbjax.train`, and returns its results.

    Args:
      path: the directory.
      method: one of METHODS.
      seed: of the run and of its numbers.
      counts: training images of each class.
      names: class names.
      tests: test images of each class.
      held_out: whether there is a validation split, and so a best checkpoint.
      multi_label: whether accuracies are average precisions; there is no confusion then.
      **more: keys of the config to set.
    """
    path.mkdir(parents=True, exist_ok=True)
    counts = np.asarray(long_tail(120, 10, 20) if counts is None else counts)
    num_classes, random = len(counts), np.random.default_rng([seed, *method.encode()])
    names = [f"digit {c}" for c in range(num_classes)] if names is None else names
    config = copy.deepcopy(CONFIG) | {"seed": seed} | more
    for section, values in METHODS[method].items():
        config[section] |= values
    gain = {"ce": 0.0, "cb_focal": 0.25, "cdb": 0.4}[method]
    rarity = 1 - np.log(counts + 1.0) / np.log(counts.max() + 1.0)
    final = np.clip(0.95 - (0.9 - gain) * rarity + random.normal(0, 0.04, num_classes), 0, 1)

    def measure(accuracy, examples):
        accuracy = np.round(accuracy * examples) / examples
        order = np.argsort(-counts, kind="stable")
        thirds = dict(zip(("many_accuracy", "medium_accuracy", "few_accuracy"), np.array_split(order, 3), strict=True))
        values = {key: float(accuracy[index].mean()) for key, index in thirds.items() if len(index)}
        values |= {"balanced_accuracy": float(accuracy.mean()), "worst_accuracy": float(accuracy.min())}
        values |= {"loss": float(2 - accuracy.mean())}
        if multi_label:
            return accuracy, values | {"mean_average_precision": values["balanced_accuracy"]}
        values |= {"macro_f1": 0.515, "geometric_mean": 0.25, "matthews": -0.125}
        return accuracy, values | {"accuracy": float(accuracy.mean()), "ece": float(random.uniform(0.02, 0.1))}

    rows, per_class, class_weights, validation = [], [], [], {}
    for epoch in range(1, config["num_epochs"] + 1):
        reached = final * (1 - np.exp(-epoch / 3))
        row = {"step": 14 * epoch, "epoch": epoch, "train/loss": 2.2 * float(np.exp(-epoch / 4)) + 0.1}
        row |= {
            "train/accuracy": float(min(1, reached.mean() + 0.2)),
            "train/learning_rate": 0.1,
            "time/images_per_second": 9e3,
        }
        if held_out:
            accuracy, validation[epoch] = measure(np.clip(reached + random.normal(0, 0.02, num_classes), 0, 1), 20)
            row |= {f"validation/{key}": value for key, value in validation[epoch].items()}
            accuracy = [*accuracy.tolist()[:-1], None]  # the last class has no validation image
            per_class.append({"step": 14 * epoch, "epoch": epoch, "split": "validation", "accuracy": accuracy})
        used = weights_of(config["weights"]["name"], counts, final * (1 - np.exp(-(epoch - 1) / 3)))
        class_weights.append({"step": 14 * epoch, "epoch": epoch, "class_weights": used})
        rows.append(row)

    steps = {"step": 14 * config["num_epochs"], "epoch": config["num_epochs"]}
    results = {"finished": True, **steps, "best": None, "seconds": 3.21, "per_class": {}, "confusion": {}}
    results["calibration"] = {}
    for name in ("last", "best") if held_out else ("last",):
        accuracy, values = measure(np.clip(final + (name == "best") * 0.02, 0, 1), tests)
        results[name] = {"validation": validation.get(config["num_epochs"], {}), "test": values}
        results["per_class"][name] = accuracy.tolist()
        if not multi_label and num_classes <= 200:
            table = np.diag(np.round(accuracy * tests)).astype(int)
            for c in range(num_classes):
                for other in random.integers(0, max(1, c), tests - table[c, c]):
                    table[c, other if c else num_classes - 1] += 1
            results["confusion"][name] = table.tolist()
        if not multi_label:
            images, confidence = np.arange(15.0), (np.arange(15) + 0.5) / 15
            results["calibration"][name] = [list(images), list(images * confidence), list(images * confidence**2)]
        rows.append(steps | {f"test/{name}/{key}": value for key, value in values.items()})
    if held_out:
        best = max(validation, key=lambda epoch: validation[epoch]["balanced_accuracy"])
        results["best"] |= {"step": 14 * best, "epoch": best}

    data = {
        "class_names": names,
        "counts": counts.tolist(),
        "sizes": {
            "train": int(counts.sum()),
            "validation": 20 * (num_classes - 1) * held_out,
            "test": tests * num_classes,
        },
        "test_counts": [tests] * num_classes,
        **({"validation_counts": [20] * (num_classes - 1) + [0]} if held_out else {}),
        "multi_label": multi_label,
        "notes": ["no validation image: " + names[-1]] if held_out else [],
    }
    environment = {"python": "3.11.9", "jax": "0.10.2", "commit": None, "devices": "1 cpu", "xla_flags": ""}
    files = {"config": config, "data": data, "environment": environment, "results": results}
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    writers.rewrite(path / "metrics.jsonl", rows)
    writers.rewrite(path / "per_class.jsonl", per_class)
    writers.rewrite(path / "class_weights.jsonl", class_weights)
    return results


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three methods with three seeds each, and the page of their comparison."""
    root = tmp_path_factory.mktemp("digits_lt")
    results = {
        method: [make_run(root / method / f"seed_{seed}", method=method, seed=seed) for seed in range(3)]
        for method in METHODS
    }
    return root, results, report([root], root).read_text()


def tables(page):
    """Reads the Markdown tables of a page: section -> rows -> column -> cell."""
    found, section = {}, ""
    for block in page.split("\n\n"):
        if block.startswith("#"):
            section = block.lstrip("# ").strip()
        if block.startswith("|"):
            header, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
            found[section] = [dict(zip(header, row, strict=True)) for row in rows]
    return found


def pictures(page):
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)


def printed(what):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def assert_shows_something(path):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"), dtype=np.float64)
    assert min(pixels.shape) > 300
    assert pixels.std() > 5
    assert 0.001 < (pixels < 250).mean() < 0.9
    # Something is drawn in every quarter.
    for half in np.array_split(pixels, 2, axis=0):
        for quarter in np.array_split(half, 2, axis=1):
            assert quarter.std() > 1


def test_comparison_table_is_recomputable(sweep):
    _, results, page = sweep
    found = tables(page)
    for title, checkpoint in (("Last epoch", "last"), ("Best epoch on held-out validation", "best")):
        rows = found[title]
        assert [row["method"] for row in rows] == ["ce", "cb_focal", "cdb"]
        for row, runs in zip(rows, results.values(), strict=True):
            assert list(row) == ["method", *KEYS, "n"]
            assert row["n"] == "3"
            for column, key in KEYS.items():
                values = 100 * np.array([run[checkpoint]["test"][key] for run in runs])
                assert row[column] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def test_comparison_lists_every_run_and_class(sweep):
    root, results, page = sweep
    found = tables(page)
    runs = found["Runs"]
    assert len(runs) == 9
    for row, result in zip(runs, [one for several in results.values() for one in several], strict=True):
        assert row["balanced, last"] == f"{100 * result['last']['test']['balanced_accuracy']:.1f}"
        assert row["balanced, best"] == f"{100 * result['best']['test']['balanced_accuracy']:.1f}"
        assert row["best epoch"] == str(result["best"]["epoch"])
        assert (root / row["directory"].replace("\\", "") / "results.json").exists()
    for c, row in enumerate(found["Classes"]):
        values = 100 * np.array([run["per_class"]["best"][c] for run in results["cdb"]])
        assert row["cdb"] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
        assert row["class"] == f"digit {c}"


def test_comparison_says_what_the_numbers_mean(sweep):
    _, _, page = sweep
    text = page.replace("\\", "")
    assert "# digits: comparison" in text
    assert "sample standard deviation (ddof = 1)" in text
    assert "The largest class has 120 images, the smallest 6: imbalance 20." in text
    assert "Test: 250 images, 25 per class. One image is 4.0 points of the accuracy of its class." in text
    assert "Held-out validation: 180 images, 0 to 20 per class." in text
    assert "thirds of the classes by training images, as the largest class has under 200" in text
    assert re.search(r"few: 3 classes, \d+ to 6 images: digit 7, digit 8, digit 9\.", text)
    assert "no validation image: digit 9" in text
    assert "Equal weights for all classes in every epoch: ce." in text
    assert "Confidence in cb_focal is one-vs-rest: the chance of a yes for the class" in text
    assert "jax 0.10.2" in text
    assert "Left out" not in text
    methods = tables(page)["Methods"]
    assert [row["weights.name"] for row in methods] == ["uniform", "class_balanced", "difficulty"]
    assert list(methods[0]) == ["method", "loss.name", "loss.gamma", "weights.name", "weights.beta"]
    # Numbers are listed only where they have an effect, even if all methods have the same.
    assert [row["loss.gamma"] for row in methods] == ["–", "1.0", "–"]
    assert [row["weights.beta"] for row in methods] == ["–", "0.9999", "–"]


def test_pictures_show_something(sweep):
    root, _, page = sweep
    assert set(pictures(page)) == {*PICTURES}
    for name in pictures(page):
        assert_shows_something(root / name)


def test_one_run(sweep, tmp_path):
    root, results, _ = sweep
    path = report([root / "cdb" / "seed_1"], tmp_path)
    assert path == tmp_path / "report.md"
    page, result = path.read_text(), results["cdb"][1]
    assert page.startswith("# digits: cdb, seed 1\n")
    assert "Finished: 12 epochs, 168 steps in 3 s of training." in page
    found = tables(page)
    rows = {row[""]: row for row in found["Results"]}
    assert list(rows["overall"]) == ["", "validation, last", "test, last", "validation, best", "test, best"]
    for column, key in KEYS.items():
        assert rows[column]["test, best"] == f"{100 * result['best']['test'][key]:.1f}"
        assert rows[column]["test, last"] == f"{100 * result['last']['test'][key]:.1f}"
    shown = ("macro F1", "geometric mean of recalls", "Matthews' correlation (hundredths)")
    assert [rows[name]["test, last"] for name in shown] == ["51.5", "25.0", "-12.5"]
    assert rows["loss"]["test, last"] == f"{result['last']['test']['loss']:.4f}"
    for row, accuracy in zip(found["Classes"], result["per_class"]["best"], strict=True):
        assert row["accuracy"] == f"{100 * accuracy:.1f}"
    worst = int(np.argmin(result["per_class"]["best"]))
    assert f"Worst: digit {worst} (" in page
    assert f"The best epoch is {result['best']['epoch']}," in page
    assert set(pictures(page)) == {*PICTURES}
    for name in pictures(page):
        assert_shows_something(tmp_path / name)


def test_report_depends_on_the_numbers_alone(sweep, tmp_path):
    root, _, _ = sweep
    for name in ("first", "second"):
        report([root / "cdb" / "seed_0"], tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_table_for_terminal_has_the_same_numbers_in_80_columns(sweep):
    root, results, _ = sweep
    text = printed(table_for_terminal([root]))
    assert max(map(len, text.splitlines())) <= 80
    assert text.index("ce ") < text.index("cb_focal") < text.index("cdb")
    for runs in results.values():
        for checkpoint in ("last", "best"):
            for key in set(KEYS.values()) - {"ece"}:
                values = 100 * np.array([run[checkpoint]["test"][key] for run in runs])
                assert f"{values.mean():.1f}±{values.std(ddof=1):.1f}" in text


def test_hundred_classes(tmp_path):
    names = [f"species number {c}" for c in range(100)]
    counts = long_tail(500, 100, 100)
    for method in ("ce", "cdb"):
        for seed in range(2):
            make_run(
                tmp_path / method / f"seed_{seed}", method=method, seed=seed, counts=counts, names=names, tests=100
            )
    page = report([tmp_path], tmp_path).read_text()
    assert "imbalance 100." in page
    assert "Groups of classes (over 100, 20 to 100, and under 20 training images):" in page
    assert "Most training images: species number 0 (500), species number 1 (477)," in page
    assert "Fewest training images: species number 99 (5), species number 98 (5)," in page
    assert "and 25 others" in page
    assert "One image is" not in page
    rows = tables(page)["Classes"]
    assert [row["class"] for row in rows] == [f"species number {c}" for c in [*range(10), *range(90, 100)]]
    for name in pictures(page):
        assert_shows_something(tmp_path / name)
    single = report([tmp_path / "cdb" / "seed_0"], tmp_path / "single").read_text()
    assert len(tables(single)["Classes"]) == 10
    for name in pictures(single):
        assert_shows_something(tmp_path / "single" / name)


def test_thousands_of_classes(tmp_path):
    make_run(tmp_path, method="cdb", counts=long_tail(1000, 8142, 500), tests=3)
    page = report([tmp_path], tmp_path).read_text()
    assert set(pictures(page)) == {*PICTURES} - {"confusion.png"}
    assert len(page) < 20_000
    for name in pictures(page):
        assert_shows_something(tmp_path / name)


def test_multi_label(tmp_path):
    for method in ("ce", "cdb"):
        make_run(tmp_path / method / "seed_0", method=method, multi_label=True)
    page = report([tmp_path], tmp_path).read_text()
    assert "a class's accuracy is its average precision" in page
    rows = tables(page)["Last epoch"]
    assert list(rows[0]) == ["method", "mean AP", "many", "medium", "few", "worst class", "n"]
    assert all("±" not in cell for row in rows for cell in row.values())
    assert "Test average precision" in page
    assert "positive labels" in page
    assert "confusion.png" not in pictures(page)
    single = report(tmp_path / "cdb" / "seed_0", tmp_path / "single").read_text()
    assert "average precision" in single
    assert "confusion.png" not in pictures(single)


def test_nothing_held_out(tmp_path):
    make_run(tmp_path / "ce" / "seed_0", held_out=False)
    make_run(tmp_path / "cdb" / "seed_0", method="cdb")
    page = report([tmp_path], tmp_path).read_text()
    found = tables(page)
    assert [row["method"] for row in found["Last epoch"]] == ["ce", "cdb"]
    assert [row["method"] for row in found["Best epoch on held-out validation"]] == ["cdb"]
    assert "The other methods held out no images, so they have no best epoch." in page
    assert "Test accuracy, last epoch." in page
    single = report([tmp_path / "ce" / "seed_0"], tmp_path / "single").read_text()
    assert "Held-out validation: none." in single
    assert list(tables(single)["Results"][0]) == ["", "test, last"]
    assert "curves.png" in pictures(single)


def test_classes_without_test_or_training_images(tmp_path):
    counts = [*long_tail(120, 9, 20), 0]
    for seed in range(2):
        results = make_run(tmp_path / f"seed_{seed}", method="cdb", seed=seed, counts=counts)
        results["per_class"]["best"][3] = None
        results["confusion"]["best"][3] = [0] * 10
        (tmp_path / f"seed_{seed}" / "results.json").write_text(json.dumps(results))
    page = report([tmp_path], tmp_path).read_text()
    assert "Classes without any training image: digit 9." in page
    assert "the smallest 6: imbalance 20." in page
    (column,) = set(tables(page)["Classes"][0]) - {"class", "training images"}
    assert tables(page)["Classes"][3][column] == "–"
    assert "nan" not in page.lower()
    single = report([tmp_path / "seed_0"], tmp_path / "single").read_text()
    assert tables(single)["Classes"][3]["accuracy"] == "–"
    assert "nan" not in single.lower()
    for text in (page, single):
        beside = text.partition("## Results")[2].partition("\n## ")[0]
        assert beside.count("No figure counts digit 3, of which there is no test image.") == 1
        assert beside.count("No figure counts digit 9, of which there is no validation image.") == 1


def test_the_unit_of_a_user_s_own_loss_is_not_known(tmp_path):
    for name, loss in (("own", {"name": "losses.py:margin"}), ("ours", CONFIG["loss"])):
        make_run(tmp_path / name, loss=dict(loss))
    own, ours = ("\n".join(one_run.results(read.read_run(tmp_path / name))) for name in ("own", "ours"))
    assert "the loss is what your own function gives." in own and "nats" not in own
    assert "the loss is in nats." in ours


def test_metric_that_some_seeds_lack_says_its_own_n(tmp_path):
    values = []
    for seed in range(3):
        results = make_run(tmp_path / "ce" / f"seed_{seed}", seed=seed)
        if seed == 1:
            del results["last"]["test"]["few_accuracy"]
            (tmp_path / "ce" / "seed_1" / "results.json").write_text(json.dumps(results))
        else:
            values.append(100 * results["last"]["test"]["few_accuracy"])
    (row,) = tables(report([tmp_path], tmp_path).read_text())["Last epoch"]
    assert row["few"] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} (n=2)"


def test_left_out_runs_are_listed_with_the_reason(tmp_path):
    for seed in range(2):
        make_run(tmp_path / "ce" / f"seed_{seed}", seed=seed)
    for name in ("killed", "early", "broken", "partial", "copied"):
        make_run(tmp_path / name / "seed_0", method="cdb")
    (tmp_path / "killed/seed_0/results.json").unlink()
    rows = writers.read_rows(tmp_path / "killed/seed_0/metrics.jsonl")
    writers.rewrite(tmp_path / "killed/seed_0/metrics.jsonl", rows[:5])
    (tmp_path / "early/seed_0/results.json").unlink()
    (tmp_path / "early/seed_0/metrics.jsonl").unlink()
    (tmp_path / "broken/seed_0/results.json").write_text('{"finished": tr')
    (tmp_path / "partial/seed_0/config.json").unlink()
    (tmp_path / "again").mkdir()
    shutil.copytree(tmp_path / "ce", tmp_path / "again" / "ce")
    page = report([tmp_path], tmp_path / "out").read_text()
    reasons = {row["directory"].replace("\\", ""): row["reason"].replace("\\", "") for row in tables(page)["Left out"]}
    assert reasons == {
        str(
            tmp_path / "broken/seed_0"
        ): "cannot be read: results.json is not JSON: Expecting value: line 1 column 14 (char 13)",
        str(tmp_path / "partial/seed_0"): "cannot be read: config.json is missing",
        str(tmp_path / "killed/seed_0"): "not finished: stopped at step 70 (epoch 5 of 12)",
        str(tmp_path / "early/seed_0"): "not finished: stopped before the end of its first epoch",
        str(tmp_path / "ce/seed_0"): f"same method and seed as {tmp_path / 'again/ce/seed_0'}",
        str(tmp_path / "ce/seed_1"): f"same method and seed as {tmp_path / 'again/ce/seed_1'}",
    }
    assert [(row["method"], row["n"]) for row in tables(page)["Last epoch"]] == [("again/ce", "2"), ("copied", "1")]
    assert "Left out: 6, see the report." in " ".join(printed(table_for_terminal([tmp_path])).split())


def test_unfinished_run_has_a_page(tmp_path):
    make_run(tmp_path, method="cdb")
    (tmp_path / "results.json").unlink()
    rows = writers.read_rows(tmp_path / "metrics.jsonl")[:7]
    writers.rewrite(tmp_path / "metrics.jsonl", rows)
    page = report([tmp_path], tmp_path).read_text()
    assert "**Not finished: stopped at step 98 (epoch 7 of 12).**" in page
    shown = "".join(printed(table_for_terminal([tmp_path])).split())
    assert shown.startswith("nofinishedrun") and shown.endswith(f"{tmp_path}:notfinished:stoppedatstep98(epoch7of12)")
    balanced = {row[""]: row for row in tables(page)["Results"]}["balanced"]
    assert balanced == {"": "balanced", "validation, epoch 7": f"{100 * rows[-1]['validation/balanced_accuracy']:.1f}"}
    assert set(pictures(page)) == {"class_weights.png", "class_accuracies.png", "curves.png"}
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "class_weights.jsonl").unlink()
    page = report([tmp_path], tmp_path).read_text()
    assert "Nothing was measured on held-out or test images." in page
    # Pictures of the earlier report are gone with it.
    assert pictures(page) == []
    assert list(tmp_path.glob("*.png")) == []


def test_a_run_whose_class_weights_swing_says_so(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"seed_{seed}", method="cdb", seed=seed)
    steady = report([tmp_path], tmp_path).read_text()
    assert "swing" not in steady
    rows = writers.read_rows(tmp_path / "seed_1" / "class_weights.jsonl")
    back_and_forth = [1.9, 0.1] * 5, [0.1, 1.9] * 5
    swinging = [
        row | {"class_weights": back_and_forth[row["epoch"] % 2]} if 4 <= row["epoch"] <= 9 else row for row in rows
    ]
    writers.rewrite(tmp_path / "seed_1" / "class_weights.jsonl", swinging)
    page = report([tmp_path], tmp_path).read_text()
    (line,) = [line for line in page.splitlines() if "swing" in line]
    assert "(1 of 2 runs; most in seed 1): the class weights swing: from epoch 5 to 9, 90 % of the whole weight" in line
    assert "set difficulty.smoothing=0.8" in line
    alone = report([tmp_path / "seed_1"], tmp_path / "seed_1").read_text()
    assert "the class weights swing: from epoch 5 to 9, 90 % of the whole weight changed classes each epoch" in alone
    assert {"class_weights.png", "class_accuracies.png"} <= set(pictures(alone))


def test_no_finished_run(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"seed_{seed}", seed=seed)
        (tmp_path / f"seed_{seed}" / "results.json").unlink()
    page = report([tmp_path], tmp_path).read_text()
    assert page.startswith("# No finished run")
    assert len(tables(page)["Left out"]) == 2


def test_links_to_runs_are_followed_and_a_run_counts_once(tmp_path):
    for seed in range(2):
        make_run(tmp_path / "runs" / "ce" / f"seed_{seed}", seed=seed)
        make_run(tmp_path / "archive" / f"run {seed}", method="cdb", seed=seed)
        (tmp_path / "runs" / "cdb").mkdir(exist_ok=True)
        (tmp_path / "runs" / "cdb" / f"seed_{seed}").symlink_to(tmp_path / "archive" / f"run {seed}")
    (tmp_path / "runs" / "ce" / "latest").symlink_to("seed_1")  # a run of its own name, too
    (tmp_path / "runs" / "back").symlink_to(".")
    (tmp_path / "runs" / "cdb" / "up").symlink_to("..")
    (tmp_path / "runs" / "ring").symlink_to("ring")
    (tmp_path / "runs" / "nowhere").symlink_to("gone")
    make_run(tmp_path / "another" / "seed_0")
    (tmp_path / "runs" / "above").symlink_to(tmp_path)  # it has the folder that is asked for, and others
    runs, left_out = read.read_runs([tmp_path / "runs"])
    assert left_out == []
    assert [(run.folders, run.path.name, run.seeds[0]) for run in runs] == [
        (("ce",), "seed_0", 0),
        (("ce",), "seed_1", 1),
        (("cdb",), "seed_0", 0),
        (("cdb",), "seed_1", 1),
    ]
    (tmp_path / "link").symlink_to("archive")
    assert len(read.read_runs([tmp_path / "link", tmp_path / "runs"])[0]) == 4


def test_a_folder_that_cannot_be_listed_is_left_out_with_the_reason(tmp_path, monkeypatch):
    """Its path is longer than the system takes, which no one may list; a missing permission stops all but root."""
    make_run(tmp_path / "ce" / "seed_0")
    monkeypatch.chdir(tmp_path)
    for _ in range(17):
        pathlib.Path("d" * 250).mkdir()
        os.chdir("d" * 250)
    runs, left_out = read.read_runs([tmp_path])
    assert len(runs) == 1
    ((path, reason),) = left_out
    assert path.is_relative_to(tmp_path / ("d" * 250)) and reason == "cannot be read: File name too long"
    page = report([tmp_path], tmp_path / "out").read_text()
    assert [row["reason"] for row in tables(page)["Left out"]] == [reason]
    with pytest.raises(
        ReportError, match=r"holds no run: looked in it and below .*; not in .*, which cannot be read: File"
    ):
        read.read_runs([tmp_path / ("d" * 250)])


def test_directory_without_runs(tmp_path):
    with pytest.raises(
        ValueError, match=r"holds no run: looked in it and below for work directories \(with config.json, "
    ):
        report([tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="needs at least one directory"):
        report([], tmp_path / "out")
    with pytest.raises(ValueError, match=r"nowhere is not a directory: looked .* give the --workdir"):
        report([tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_methods_are_named_by_what_differs(tmp_path):
    for index, imbalance in enumerate((10, 100)):
        data = CONFIG["data"] | {"imbalance": imbalance}
        for seed in range(2):
            make_run(tmp_path / f"x{index}" / "ce" / f"seed_{seed}", seed=seed, data=data, devices=seed + 1)
            make_run(tmp_path / f"run{index}_{seed}", seed=seed, data=data, counts=long_tail(120, 10, imbalance))
    runs, _ = read.read_runs([tmp_path / "x0", tmp_path / "x1"])
    methods, left_out = group(runs)
    assert [(method.label, len(method.runs)) for method in methods] == [
        ("ce (data.imbalance=10)", 2),
        ("ce (data.imbalance=100)", 2),
    ]
    assert left_out == []
    flat = [tmp_path / f"run{index}_{seed}" for index in (1, 0) for seed in range(2)]
    methods, _ = group(read.read_runs(flat)[0])
    assert [method.label for method in methods] == ["data.imbalance=100", "data.imbalance=10"]
    page = report(flat, tmp_path / "out").read_text()
    assert "Classes are not compared: they are not the same in all methods, or their numbers of images are not." in page
    assert page.count("- Training: ") == 2
    assert [row["n"] for row in tables(page)["Last epoch"]] == ["2", "2"]
    assert pictures(page) == ["curves.png"]
    (method,), _ = group(read.read_runs(flat[:2])[0])
    assert method.label == "softmax, uniform weights"


def test_a_run_alone_is_named_by_all_that_makes_its_method(tmp_path):
    # What `config.method` sets for these names, but for the loss and the class weights.
    around = {
        "class_aware": {"data": CONFIG["data"] | {"sampler": "class_aware"}},
        "smote": {"data": CONFIG["data"] | {"synthesis": "smote"}},
        "l2rw": {"meta": {"name": "l2rw"}},
        "remix": {"mix": {"name": "remix"}},
        "sam": {"sharpness": {"name": "sam"}},
        "tau=1.0": {"evaluation": {"tau": 1.0}},
    }
    for name, changes in around.items():
        make_run(tmp_path / name, **changes)
        (method,), _ = group(read.read_runs([tmp_path / name])[0])
        assert method.label.startswith("softmax, uniform weights, ") and name in method.label
    # None of them is the baseline, which comes first whatever its name is.
    make_run(tmp_path / "zero")
    assert [run.path.name for run in read.read_runs([tmp_path])[0]] == ["zero", *sorted(around)]


def test_a_run_of_tau_normalisation_says_which_power_it_took(tmp_path):
    make_run(tmp_path / "run", stage={"name": "tau", "tau": None})
    run = read.read_run(tmp_path / "run")
    assert "τ" not in one_run._state(run)
    chosen = dataclasses.replace(run, rows=[{"step": 0, "epoch": 0, "stage/tau": 0.7}])
    assert one_run._state(chosen).endswith(" τ is 0.7, the best on held-out images.")
    given = dataclasses.replace(chosen, settings=chosen.settings | {"stage.tau": 0.7})
    assert one_run._state(given).endswith(" τ is 0.7, as given.")


def test_meta_images_are_listed_with_the_data(tmp_path):
    make_run(tmp_path / "run")
    facts = json.loads((tmp_path / "run/data.json").read_text())
    facts |= {"meta_counts": [3] * 10, "sizes": facts["sizes"] | {"meta": 30}}
    (tmp_path / "run/data.json").write_text(json.dumps(facts))
    page = describe_data(read.read_run(tmp_path / "run"))
    assert "- Meta images, held out of the training: 30 images, 3 per class." in page


def test_methods_that_differ_in_many_keys_are_named_by_their_folders(tmp_path):
    first, second = tmp_path / "ce", tmp_path / "ce_crt"
    stage = {"name": "crt", "source": f"{first}", "checksum": "0" * 64}
    make_run(first)
    make_run(second, stage=stage, num_epochs=3, batch_size=64)
    make_run(tmp_path / "other" / "ce", batch_size=64)
    assert [method.label for method in group(read.read_runs([first, second])[0])[0]] == ["ce", "ce_crt"]
    page = report([first, second], tmp_path / "out").read_text()
    assert "000" not in page and [row["stage.name"] for row in tables(page)["Methods"]] == ["–", "crt"]
    # Names of folders must tell methods apart.
    methods, _ = group(read.read_runs([first, second, tmp_path / "other" / "ce"])[0])
    assert [method.label for method in methods][2].startswith("num_epochs=12, batch_size=64, stage.name=None")
    methods, _ = group(read.read_runs([second])[0])
    assert methods[0].label == "softmax, uniform weights, crt"


def test_a_second_stage_of_several_seeds_is_one_method(tmp_path):
    for first in ("ce", "cb"):
        for seed in range(2):
            stage = {"name": "crt", "source": f"{tmp_path}/{first}/seed_{seed}", "checksum": f"{seed}" * 64}
            make_run(tmp_path / f"{first}_crt" / f"seed_{seed}", seed=seed, stage=stage)
            make_run(tmp_path / f"flat_{first}_{seed}", seed=seed, stage=stage)
    methods, left_out = group(read.read_runs([tmp_path / "ce_crt", tmp_path / "cb_crt"])[0])
    assert [(method.label, len(method.runs)) for method in methods] == [("ce_crt", 2), ("cb_crt", 2)]
    flat = group(read.read_runs(sorted(tmp_path.glob("flat_*")))[0])[0]
    assert [(method.label, len(method.runs)) for method in flat] == [
        (f"stage.source={tmp_path}/{first}", 2) for first in ("cb", "ce")
    ]
    assert not left_out


def test_runs_on_other_data_are_another_method(tmp_path, monkeypatch):
    birds = {"names": ["owl", "wren"], "counts": [40, 10]}
    cars = {"names": ["van", "bus"], "counts": [40, 10]}
    for seed in range(2):
        for name, facts in (("birds", birds), ("cars", cars)):
            data = CONFIG["data"] | {"name": "folder", "root": name}
            make_run(tmp_path / f"{name}_{seed}", seed=seed, data=data, **facts)
            make_run(tmp_path / "below" / name / "ce" / f"seed_{seed}", seed=seed, data=data, **facts)
    flat = [tmp_path / name for name in ("birds_0", "cars_0", "birds_1", "cars_1")]
    methods, left_out = group(read.read_runs(flat)[0])
    assert [(method.label, [run.path.name for run in method.runs]) for method in methods] == [
        ("data.root=birds", ["birds_0", "birds_1"]),
        ("data.root=cars", ["cars_0", "cars_1"]),
    ]
    assert not left_out
    methods, _ = group(read.read_runs([tmp_path / "below" / name for name in ("birds", "cars")])[0])
    assert [(m.label, len(m.runs)) for m in methods] == [("ce (data.root=birds)", 2), ("ce (data.root=cars)", 2)]
    # The same data at another place are the same; other images at the same place are not.
    moved = CONFIG["data"] | {"name": "folder", "root": "moved/birds"}
    make_run(tmp_path / "moved", seed=2, data=moved, **birds)
    make_run(tmp_path / "more", seed=3, data=moved, **birds | {"counts": [40, 11]})
    methods, _ = group(read.read_runs([tmp_path / "birds_0", tmp_path / "moved"])[0])
    assert [len(method.runs) for method in methods] == [2]
    monkeypatch.chdir(tmp_path)
    methods, _ = group(read.read_runs(["moved", "more"])[0])
    assert [method.label for method in methods] == ["directory=moved", "directory=more"]
    # ADASYN makes other numbers of training images for other seeds.
    data = CONFIG["data"] | {"synthesis": "adasyn"}
    for seed, count in enumerate((38, 41)):
        make_run(tmp_path / f"adasyn_{seed}", seed=seed, data=data, counts=[40, count])
    methods, _ = group(read.read_runs(sorted(tmp_path.glob("adasyn_*")))[0])
    assert [len(method.runs) for method in methods] == [2]


def test_methods_are_named_by_all_folders_below_the_given_one(tmp_path):
    for beta in (0.9, 0.99):
        for seed in range(2):
            weights = {"name": "class_balanced", "beta": beta}
            make_run(tmp_path / "CB" / f"beta_{beta}" / f"seed_{seed}", seed=seed, weights=weights)
    names = ["CB/beta_0.9", "CB/beta_0.99"]
    each = sorted(tmp_path.glob("*/*/seed_*"))
    for given in ([tmp_path], each):
        methods, _ = group(read.read_runs(given, tmp_path)[0])
        assert [method.label for method in methods] == names
    methods, _ = group(read.read_runs([tmp_path / "CB"], tmp_path)[0])
    assert [method.label for method in methods] == ["beta_0.9", "beta_0.99"]
    # Seeds of a method from two places have the name that both share.
    (tmp_path / "again" / "CB").mkdir(parents=True)
    (tmp_path / "CB" / "beta_0.9" / "seed_1").rename(tmp_path / "again" / "CB" / "seed_1")
    (tmp_path / "CB" / "beta_0.9").rename(tmp_path / "again" / "beta_0.9")
    (tmp_path / "again" / "beta_0.9").rename(tmp_path / "CB" / "CB")
    methods, _ = group(read.read_runs([tmp_path])[0])
    assert sorted((method.label, len(method.runs)) for method in methods) == [("CB", 2), ("CB/beta_0.99", 2)]


def test_methods_keep_the_order_they_are_given_in(sweep):
    root, _, _ = sweep
    given = [root / "cdb", root / "ce" / "seed_2", root / "ce" / "seed_0", root / "cdb"]
    methods, left_out = group(read.read_runs(given)[0])
    assert [(method.label, [run.seeds[0] for run in method.runs]) for method in methods] == [
        ("cdb", [0, 1, 2]),
        ("ce", [2, 0]),
    ]
    assert left_out == []


def test_seeds_are_ordered_as_numbers(tmp_path):
    for seed in (10, 9, 1):
        make_run(tmp_path / f"seed_{seed}", seed=seed)
    assert [run.seeds[0] for run in read.read_runs([tmp_path])[0]] == [1, 9, 10]


def test_a_raised_digit_in_a_name_is_no_number(tmp_path):
    for name in ("width 2\u00b2", "\u00b2", "10"):
        make_run(tmp_path / "1" / name)
    assert [run.path.name for run in read.read_runs([tmp_path])[0]] == ["10", "width 2\u00b2", "\u00b2"]


def test_names_cannot_break_the_page(tmp_path):
    names = ["a|b", "$x^2", "$y$", "<b>bold</b>", "*star*", "back`tick", "line\nbreak", "a" * 80, "_x_", "_x_"]
    make_run(tmp_path, method="cdb", names=names)
    page = report([tmp_path], tmp_path).read_text()
    rows = tables(page)["Classes"]
    assert len(rows) == 10
    assert rows[0]["class"] == r"a\|b"
    assert rows[3]["class"] == r"\<b\>bold\</b\>"
    assert rows[6]["class"] == "line break"
    assert rows[9]["class"] == r"\_x\_"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.5], "50.0"),
        ([0.5, 0.7], "60.0 ± 14.1"),
        ([0.25, 0.25, 0.25], "25.0 ± 0.0"),
        ([0.12345, 0.12355], "12.3 ± 0.0"),
    ],
)
def test_mean_and_deviation(values, text):
    assert table.mean_and_deviation(values) == text


def test_curves_cover_the_epochs_of_every_seed(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"seed_{seed}", seed=seed)
    rows = writers.read_rows(tmp_path / "seed_1" / "metrics.jsonl")
    rows[2]["train/loss"] = None
    writers.rewrite(tmp_path / "seed_1" / "metrics.jsonl", rows[:5])
    runs, _ = read.read_runs([tmp_path])
    drawn = sections.curves({"ce": (runs, "train/loss"), "nothing": (runs, "validation/no_such_metric")}, 10)
    assert list(drawn) == ["ce"]
    epochs, values = drawn["ce"]
    np.testing.assert_array_equal(epochs, np.arange(1, 13))
    assert values.shape == (2, 12)
    np.testing.assert_array_equal(np.isnan(values), [[False] * 12, [False, False, True, False, False] + [True] * 7])
    assert values[1, 1] == 10 * rows[1]["train/loss"]
    plots.curves(tmp_path / "curves.png", {"training loss": drawn})
    assert_shows_something(tmp_path / "curves.png")


def test_balanced_splits_have_one_curve_of_accuracy(tmp_path):
    make_run(tmp_path)
    (run,), _ = read.read_runs([tmp_path])
    assert run.is_balanced("test")
    assert not run.is_balanced("validation")
    assert not dataclasses.replace(run, data=run.data | {"multi_label": True}).is_balanced("test")
    assert not dataclasses.replace(run, data={}).is_balanced("test")


def test_running_mean_is_over_known_neighbours():
    values = np.array([1.0, 2.0, np.nan, 4.0, 9.0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(plots._running_mean(values, 3), [1.5, 1.5, 3.0, 6.5, 6.5, 9.0, np.nan, np.nan])


def test_flatten_and_differing():
    settings = [flatten({"a": 1, "b": {"c": (1, 2), "d": None}}), flatten({"a": 1, "b": {"c": (1, 3)}, "e": 0})]
    assert settings[0] == {"a": 1, "b.c": (1, 2), "b.d": None}
    assert differing(settings) == ["b.c", "e"]


def test_plain_import_brings_no_drawing_and_no_events():
    code = (
        "import sys, cbjax, cbjax.report.pages, cbjax.host.writers; "
        "heavy = {'matplotlib', 'tensorboardX', 'tensorflow', 'PIL'}; "
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    root = pathlib.Path(writers.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_pictures_leave_matplotlib_s_state_alone(sweep, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    report([sweep[0] / "cdb" / "seed_0"], tmp_path)
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_report_of_no_readable_run_names_why_and_writes_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{damaged")
    with pytest.raises(ReportError, match=r"run: cannot be read: "):
        report([tmp_path / "run"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
