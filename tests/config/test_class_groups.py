"""Groups of classes by name: what a config may say, which classes they are, and their figures everywhere."""

import json

import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax.cli import main
from cbjax.config import ConfigError, class_groups
from cbjax.host.writers import read_rows
from cbjax.report import report, table_for_terminal
from cbjax.training.restore import evaluate
from tests.report.test_report import make_run, printed, tables

NAMES = ("9", "cat", "dog", "4")
KEPT = (("majority", (9,)), ("minority", ("cat", 3)))


def load(*overrides):
    return configs.load("digits_lt", list(overrides))


@pytest.mark.parametrize(
    "text",
    ["majority=9; minority=cat,3", "majority=9;minority=cat, 3", "'majority = 9; minority=cat,3'", f"{KEPT}"],
)
def test_groups_are_typed_on_the_command_line(text):
    config = load(f"evaluation.groups={text}")
    assert config.evaluation.groups == KEPT
    assert configs.from_json(configs.to_json(config)) == config
    assert load("evaluation.groups=()").evaluation.groups == () == load("evaluation.groups=").evaluation.groups


def test_groups_are_a_dictionary_or_pairs_in_a_file():
    for value in ({"majority": (9,), "minority": ["cat", 3]}, [["majority", [9]], ["minority", ["cat", 3]]]):
        config = configs.load("digits_lt")
        config.evaluation.groups = value
        assert configs.resolve(config).evaluation.groups == KEPT
    assert configs.load("mnist_binary").evaluation.groups == (("majority", ("9",)), ("minority", ("4",)))


@pytest.mark.parametrize("text", ["majority", "majority=", "=3", "a b=3", "a=1;;b=2", "a=1,,2", "a=-1;", "a/b=1", "(("])
def test_what_is_no_group_is_refused(text):
    with pytest.raises(ConfigError, match=r"evaluation.groups must be groups like 'majority=9; minority=4,7'"):
        load(f"evaluation.groups={text}")


@pytest.mark.parametrize("value", [3, "majority=9", [3], ["ab"], {"a": 3}, {"a": "dog"}, {"a": [1.5]}, {3: [None]}])
def test_what_is_no_group_is_refused_in_a_file(value):
    config = configs.load("digits_lt")
    config.evaluation.groups = value
    with pytest.raises(ConfigError, match=r"evaluation.groups must be groups like"):
        configs.check(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f"{name}=1", f"must not be named many, .*; got {name}") for name in ("many", "balanced", "macro", "worst")),
        ("mean_average=1", "must not be named .*; got mean_average"),
        ("a=1; b=2; a=3", "must have different names; got a 2 times"),
        ("a=1,2,1", "must name each class once in a group; got 1 again in a"),
    ],
)
def test_names_and_members_that_clash_are_refused(text, message):
    with pytest.raises(ConfigError, match=f"evaluation.groups {message}"):
        load(f"evaluation.groups={text}")


def test_every_name_of_another_figure_is_taken():
    from cbjax.config import rules
    from cbjax.report.table import METRICS

    for key in (*METRICS, "macro_precision", "mean_average_precision"):
        name, _, what = key.rpartition("_")
        assert what not in ("accuracy", "precision") or not name or name in rules.TAKEN_GROUPS, key


def test_a_name_comes_before_an_index():
    found = class_groups.resolve((("a", ("cat", 9)), ("b", (3, 1)), ("c", ("4",))), NAMES)
    assert {name: places.tolist() for name, places in found.items()} == {"a": [0, 1], "b": [1, 3], "c": [3]}
    assert class_groups.resolve((), NAMES) == {}
    with pytest.raises(ConfigError, match=r"got 'cta' in a; the names are 9, cat, dog, 4; did you mean cat\?"):
        class_groups.resolve((("a", ("cta",)),), NAMES)
    with pytest.raises(ConfigError, match=r"give their index below 4; got 5 in a"):
        class_groups.resolve((("a", (5,)),), NAMES)
    with pytest.raises(ConfigError, match=r"got 'cat' again in a"):
        class_groups.resolve((("a", ("cat", 1)),), NAMES)


def test_an_unknown_class_is_refused_before_anything_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr(cbjax.training.build, "build_programs", lambda *args: pytest.fail("it went on"))
    config = load("evaluation.groups=rare=8,ten", "data.test=20")
    with pytest.raises(ConfigError, match=r"evaluation.groups must name classes of the data, .* got 'ten' in rare"):
        cbjax.train(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_figures_are_in_the_logs_the_results_the_report_and_the_command(tmp_path, capsys):
    config = load(
        "evaluation.groups=head=0,1; tail=8,9",
        "model.name=linear",
        "num_epochs=2",
        "data.test=20",
        "data.validation=10",
    )
    run = cbjax.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    matrix = np.array(results["confusion"]["last"])
    recall, precision = np.diag(matrix) / 20, np.diag(matrix) / np.maximum(matrix.sum(axis=0), 1)
    expected = {
        "head_accuracy": recall[:2].mean(),
        "head_precision": precision[:2].mean(),
        "tail_accuracy": recall[8:].mean(),
        "tail_precision": precision[8:].mean(),
    }
    test = results["last"]["test"]
    assert {key: test[key] for key in expected} == pytest.approx(expected)
    assert {key: run.metrics[f"test/last/{key}"] for key in expected} == pytest.approx(expected)
    assert {f"validation/{key}" for key in expected} <= read_rows(tmp_path / "metrics.jsonl")[0].keys()
    assert evaluate(tmp_path) == test
    page = (tmp_path / "report.md").read_text()
    rows = {row[""]: row for row in tables(page)["Results"]}
    assert rows["head"]["test, last"] == f"{100 * recall[:2].mean():.1f}"
    assert rows["tail precision"]["test, last"] == f"{100 * precision[8:].mean():.1f}"
    assert "- Groups of classes that the config names:\n  - head: 2 classes, " in page
    assert main(["eval", f"--workdir={tmp_path}"]) == 0
    assert f"test/tail_precision {test['tail_precision']:.6g}" in capsys.readouterr().out


def test_a_comparison_has_them_where_they_are_set(tmp_path):
    for seed in range(2):
        path = tmp_path / f"seed_{seed}"
        results = make_run(path, seed=seed, evaluation={"groups": [["un_balanced", ["digit 1"]], ["rare", [8, 9]]]})
        for checkpoint in ("last", "best"):
            results[checkpoint]["test"] |= {"rare_accuracy": 0.25 + seed / 2, "rare_precision": 0.5}
            results[checkpoint]["test"] |= {"un_balanced_accuracy": 0.75}
        (path / "results.json").write_text(json.dumps(results))
    make_run(tmp_path / "other" / "seed_0", method="cdb")
    page = report([tmp_path], tmp_path).read_text()
    first, second = tables(page)["Last epoch"]
    assert list(first)[4:10] == ["medium", "few", "un_balanced", "rare", "rare precision", "worst class"]
    assert (first["rare"], first["rare precision"]) == ("50.0 ± 35.4", "50.0 ± 0.0")
    assert second["rare"] == "–"
    shown = printed(table_for_terminal([tmp_path]))
    assert "rare" in shown and "precision" not in shown
