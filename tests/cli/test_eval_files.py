"""`cbjax eval` on a run's own splits and on new labelled data: what it prints, and its files."""

import csv
import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

import cbjax
from cbjax import config as configs
from cbjax import data
from cbjax.cli import calibration_file, eval_files, main, predictions
from cbjax.config import ConfigError, evaluation
from cbjax.data import Split
from cbjax.data.sources import load_digits
from cbjax.metrics import ClassificationSums, per_class_accuracy
from cbjax.training import calibrate, restore, scores
from cbjax.training.evaluate import Evaluation
from tests.photos import write_tree


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on arrays whose classes are called nul, one, +two and =three, and its work directory."""
    folder = tmp_path_factory.mktemp("digits")
    source = load_digits()
    few = source.train.labels < 4
    np.savez(
        folder / "own.npz",
        images=source.train.images[few],
        labels=source.train.labels[few],
        class_names=["nul", "one", "+two", "=three"],
    )
    changes = ["num_epochs=2", "data.name=arrays", f"data.file={folder / 'own.npz'}", "data.imbalance=4"]
    changes += ["model.name=linear", "devices=1", "log.report=false"]
    run = cbjax.train(configs.load("digits_lt", changes), folder / "run")
    return run, folder


def call(folder, *arguments):
    return main(["eval", f"--workdir={folder / 'run'}", *(str(argument) for argument in arguments)])


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_the_runs_own_split_class_by_class_and_image_by_image(digits, tmp_path, capsys):
    run, folder = digits
    assert call(folder, f"--out={tmp_path / 'out'}", "--top=2") == 0
    shown = capsys.readouterr().out
    assert "test/balanced_accuracy" in shown and "nul" in shown and "classes.csv, confusion.csv, predic" in shown
    results = json.loads((folder / "run" / "results.json").read_text())
    matrix = np.array(results["confusion"]["last"])
    header, *rows = read(tmp_path / "out" / "classes.csv")
    assert header == ["class", "train_images", "images", "accuracy", "precision", "f1"]
    assert [row[0] for row in rows] == ["nul", "one", "'+two", "'=three"], "no name starts a formula"
    assert [int(row[1]) for row in rows] == json.loads((folder / "run" / "data.json").read_text())["counts"]
    assert [row[2] for row in rows] == ["50"] * 4
    np.testing.assert_allclose([float(row[3]) for row in rows], np.diag(matrix) / 50, rtol=1e-5)
    predicted = matrix.sum(axis=0)
    expected = [f"{right / all_:.6g}" if all_ else "" for right, all_ in zip(np.diag(matrix), predicted, strict=True)]
    assert [row[4] for row in rows] == expected
    np.testing.assert_allclose([float(row[5]) for row in rows], 2 * np.diag(matrix) / (50 + predicted), rtol=1e-5)
    table = read(tmp_path / "out" / "confusion.csv")
    assert table[0][1:] == [row[0] for row in table[1:]] == ["nul", "one", "'+two", "'=three"]
    assert [[int(cell) for cell in row[1:]] for row in table[1:]] == matrix.tolist()
    header, *rows = read(tmp_path / "out" / "predictions.csv")
    assert header == ["image", "true", "predicted", "class_1", "probability_1", "class_2", "probability_2"]
    places = np.load(folder / "run" / "indices.npz")["test"]
    assert [int(row[0]) for row in rows] == places.tolist()
    chances = run.predict(np.load(folder / "own.npz")["images"][places])
    np.testing.assert_allclose([float(row[4]) for row in rows], chances.max(axis=1), rtol=1e-5)
    assert sum(row[1] == row[2] for row in rows) == np.trace(matrix)
    assert all(row[2] == row[3] for row in rows)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["metrics"] == results["last"]["test"] and written["images"] == 200
    assert written["step"] == results["step"] and "own test split" in written["data"]


def test_areas_under_curves_are_scikit_learn_s(digits, tmp_path, capsys):
    run, folder = digits
    assert call(folder, "--auc", f"--out={tmp_path}") == 0
    shown = capsys.readouterr().out
    own, places = np.load(folder / "own.npz"), np.load(folder / "run" / "indices.npz")["test"]
    labels, chances = own["labels"][places], run.predict(own["images"][places])
    header, *rows = read(tmp_path / "classes.csv")
    assert header[-2:] == ["roc_auc", "pr_auc"] and "roc auc" in shown
    metrics = json.loads((tmp_path / "evaluation.json").read_text())["metrics"]
    for column, name, truth in [
        (-2, "macro_roc_auc", sklearn.metrics.roc_auc_score),
        (-1, "macro_pr_auc", sklearn.metrics.average_precision_score),
    ]:
        areas = [truth(labels == c, chances[:, c]) for c in range(4)]
        np.testing.assert_allclose([float(row[column]) for row in rows], areas, rtol=1e-5)
        assert metrics[name] == pytest.approx(np.mean(areas)) and f"test/{name} {metrics[name]:.6g}\n" in shown
    predictions = read(tmp_path / "predictions.csv")
    assert call(folder, f"--out={tmp_path}") == 0
    assert read(tmp_path / "predictions.csv") == predictions and "auc" not in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_images_of_other_classes_are_told_by_their_probability(digits, tmp_path, capsys):
    run, folder = digits
    source = load_digits()
    images = source.train.images[source.train.labels >= 4][:60]
    np.save(tmp_path / "others.npy", images)
    options = [f"--open={tmp_path / 'others.npy'}", f"--out={tmp_path / 'out'}"]
    assert call(folder, *options, "--open-below=0.5") == 0
    test = data.of_config(run.config).test
    tp = fp = fn = rejected = 0
    for chances, label in zip(run.predict(test.images), test.labels, strict=True):
        answer = chances.argmax() if chances.max() >= 0.5 else -1
        tp, fp = tp + (answer == label), fp + (answer != label)
    for chances in run.predict(images):
        fn, rejected = fn + (chances.max() >= 0.5), rejected + (chances.max() < 0.5)
    assert 0 < rejected < 60 and tp
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    metrics = json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"]
    assert metrics["open_f_measure"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert metrics["open_accuracy"] == pytest.approx(rejected / 60)
    assert metrics["open_known_accuracy"] == pytest.approx(tp / len(test.labels))
    assert f"test/open_f_measure {metrics['open_f_measure']:.6g}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call(folder, *options)
    assert "--open=IMAGES and --open-below=P belong together" in capsys.readouterr().err
    assert call(folder, f"--open={tmp_path}/none", "--open-below=0.1") != 0
    assert "--open must be a file or folder on this machine" in capsys.readouterr().err


def test_areas_of_images_of_one_class_are_nan(digits, tmp_path, capsys):
    _, folder = digits
    own = np.load(folder / "own.npz")
    one = own["labels"] == 2
    np.savez(tmp_path / "new.npz", images=own["images"][one], labels=own["labels"][one] * 0, class_names=["+two"])
    assert call(folder, "--auc", f"--config.data.file={tmp_path / 'new.npz'}", f"--out={tmp_path}") == 0
    shown = capsys.readouterr().out
    assert "test/macro_roc_auc nan\n" in shown and "test/macro_pr_auc 1\n" in shown and "test/matthews nan" in shown
    assert json.loads((tmp_path / "evaluation.json").read_text())["metrics"]["macro_roc_auc"] is None


def test_new_data_are_found_by_the_names_of_their_classes(digits, tmp_path, capsys):
    run, folder = digits
    own = np.load(folder / "own.npz")
    some = np.flatnonzero(np.isin(own["labels"], (1, 3)))[:40]
    names = np.array(["=three", "one"])  # in another order, and not all
    labels = (own["labels"][some] == 1).astype(int)
    np.savez(tmp_path / "new.npz", images=own["images"][some], labels=labels, class_names=names)
    assert call(folder, f"--config.data.file={tmp_path / 'new.npz'}", f"--out={tmp_path}") == 0
    shown = capsys.readouterr().out
    assert "new data, 40 images of" in shown and "none of classes 'nul', '+two'" in shown
    predicted = run.predict(own["images"][some]).argmax(axis=1)
    accuracy = np.mean(predicted == own["labels"][some])
    assert f"test/accuracy {accuracy:.6g}\n" in shown
    assert [row[2] for row in read(tmp_path / "classes.csv")[1:]] == [
        "0",
        str(labels.sum()),
        "0",
        str(40 - labels.sum()),
    ]
    assert read(tmp_path / "predictions.csv")[1][:2] == ["0", "one" if labels[0] else "'=three"]


def test_the_runs_own_data_may_have_moved(digits, tmp_path, capsys):
    _, folder = digits
    (tmp_path / "moved.npz").write_bytes((folder / "own.npz").read_bytes())
    assert call(folder) == 0
    before = capsys.readouterr().out
    assert call(folder, f"--config.data.file={tmp_path / 'moved.npz'}") == 0
    after = capsys.readouterr().out
    assert "new data" not in after and after.endswith(before)


def test_photos_for_a_run_on_arrays(digits, tmp_path, capsys):
    _, folder = digits
    write_tree(tmp_path, {"photos": (2, 1, 0)}, ("nul", "=three", "one"))
    assert call(folder, f"--config.data.root={tmp_path / 'photos'}", "--split=validation") == 0
    assert "validation/accuracy" in capsys.readouterr().out


def test_the_runs_own_images_may_have_pixels_beyond_those_of_training(tmp_path):
    """One outlier among test images, as in spectrograms: its unit is that of the run, which evaluates it anyway."""
    digits = load_digits().train
    images, labels = (digits.images / 255).astype(np.float32), digits.labels
    outlier = images[:200].copy()
    outlier[0, 0, 0] = 2.5
    arrays = {"train_images": images[200:], "train_labels": labels[200:], "test_images": outlier}
    np.savez(tmp_path / "own.npz", **arrays, test_labels=labels[:200])
    keys = ["data.name=arrays", f"data.file={tmp_path / 'own.npz'}", "model.name=linear", "num_epochs=1"]
    natural = ["data.longtail=natural", "data.imbalance=1", "data.test=0", "data.normalization=standardize"]
    cbjax.train(configs.load("digits_lt", [*keys, *natural]), tmp_path / "run")
    found = restore.examine(tmp_path / "run")
    chances = scores.of_split(found, found.run.predict)
    np.testing.assert_array_equal(chances.argmax(axis=1), found.evaluation.outputs)
    with pytest.raises(ValueError, match="convert them to the units"):  # somebody else's images may be in others
        cbjax.load(tmp_path / "run").predict(outlier)
    with pytest.raises(ConfigError, match="split must be validation or test; got 'train'"):
        restore.examine(tmp_path / "run", split="train")


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("list", "new.csv", "csv"),
        ("list", "new.csv.gz", "csv"),
        ("list", "new.txt", "list"),
        ("csv", "new.txt", "csv"),
        ("folder", "new.csv", "csv"),
        ("folder", "new.txt", "list"),
    ],
)
def test_the_name_of_a_file_tells_its_kind(name, file, kind):
    where = {"folder": "data.root"}.get(name, "data.train_list")
    keys = ("data.normalization=imagenet", "data.crop_padding=0", "data.padding_mode=zero", "data.root=there")
    config = configs.load("own_images", [f"data.name={name}", f"{where}=there", *keys])
    assert evaluation.new_data(config, [f"data.test_list={file}"], "test").kind == kind
    assert evaluation.new_data(config, ["data.name=list", f"data.test_list={file}"], "test").kind == "list"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.data.file=FOLDER/none.npz"], "there is no file"),
        (["--config.data.root=FOLDER"], "has no image in a folder for each class"),
        (["--config.data.name=digits"], "data.name of new data must be one of arrays, folder, list, csv; got digits"),
        (["--config.data.name=csv"], "needs --config.data.test_list="),
        (["--out=FOLDER/run"], "--out must not be a work directory"),
        (["--out=FOLDER/own.npz"], "own.npz is a file, a pipe or a device"),
        (["--out=FOLDER/own.npz/new"], "own.npz is a file, a pipe or a device"),
    ],
)
def test_what_is_not_new_data_is_one_message(digits, capsys, arguments, message):
    _, folder = digits
    assert call(folder, *(argument.replace("FOLDER", str(folder)) for argument in arguments)) == 2
    assert message in capsys.readouterr().err


def test_skipped_images_count_nowhere_beside_images_without_an_answer():
    """Both have -1 in place of a prediction."""
    labels, outputs = np.array([0, 0, 0, 1, 1]), np.array([0, -1, -1, 1, 0])
    mask = np.array([1, 1, 0, 1, 1])  # image 2 is skipped, image 1 has no answer
    logits = np.float32([[1, 0], [np.nan, 0], [1, 0], [0, 1], [1, 0]])
    sums = ClassificationSums.from_outputs(*map(jnp.asarray, (logits, labels, np.zeros(5), mask, np.ones(5))))
    found = types.SimpleNamespace(
        counts=np.array([7, 3]),
        areas={},
        split=Split(np.zeros((5, 1)), labels),
        evaluation=Evaluation({}, per_class_accuracy(sums), outputs, np.asarray(sums.total), None, 4, 1),
    )
    columns = eval_files.class_columns(found)
    assert columns["images"].tolist() == [2, 2] and columns["accuracy"].tolist() == [0.5, 0.5]
    assert columns["precision"].tolist() == [0.5, 1.0]
    (line,) = eval_files.figures(found, "test")
    assert "1 of 4 images are NaN or infinite: these are counted as wrong" in line


def test_classes_without_images_are_named_beside_the_figures():
    names = tuple(f"class {c}" for c in range(14))
    found = types.SimpleNamespace(
        run=types.SimpleNamespace(class_names=names),
        split=Split(np.zeros((2, 8, 8, 1)), np.array([0, 1])),
        evaluation=Evaluation({"loss": 0.5}, np.ones(14), np.zeros(2), np.array([1, 1, *[0] * 12]), None, 2, 0),
    )
    figure, line = eval_files.figures(found, "test")
    assert figure == "test/loss 0.5"
    assert (
        line.startswith("no figure counts class 2, class 3, ") and "class 11 and 2 others, of which there is no" in line
    )


def test_a_temperature_at_an_end_of_its_range_is_remarked():
    right, wrong = np.eye(3) + 0.01, 1 - np.eye(3)
    said = {}
    for name, logits in {"wrong": wrong, "faint": 1e-6 * right[[0, 1, 2, 0]], "plain": right[[0, 1, 2, 0]]}.items():
        labels = np.array([0, 1, 2, 1])[: len(logits)]
        fitted = calibrate.fit_temperature(logits, labels, False)
        figures = calibrate.Fitted(calibrate.Calibration(fitted), 3, {}, {})
        said[name] = calibration_file.lines("temperature", figures)[1:-1]
    assert "the highest temperature that is tried" in said["wrong"][0] and "untrained" in said["wrong"][0]
    assert "the lowest temperature that is tried" in said["faint"][0] and said["plain"] == []


def test_a_temperature_is_fitted_on_validation_and_predictions_can_have_it(digits, tmp_path, capsys, monkeypatch):
    _, folder = digits
    assert call(folder, "--calibrate=temperature", f"--out={tmp_path}") == 0
    shown = capsys.readouterr().out
    file = json.loads((tmp_path / "calibration.json").read_text())
    own, indices = np.load(folder / "own.npz"), np.load(folder / "run" / "indices.npz")

    def nll(temperature, split="validation"):
        chances = cbjax.load(folder / "run", temperature=temperature).predict(own["images"][indices[split]])
        return sklearn.metrics.log_loss(own["labels"][indices[split]], chances, labels=range(4))

    fitted = file["temperature"]
    assert nll(fitted) < min(nll(fitted * 1.1), nll(fitted / 1.1)) and nll(fitted) < nll(1.0)
    assert file["after"]["test"]["nll"] == pytest.approx(nll(fitted, "test"), rel=1e-4)
    before, after = (f"{file[key]['test']['nll']:.6g}" for key in ("before", "after"))
    assert f"test/nll {before} before, {after} after" in shown and f"temperature {fitted:.4g}, fitted on" in shown
    assert "balanced_accuracy" not in shown.partition("temperature ")[2], "no answer changes"
    np.save(tmp_path / "some.npy", own["images"][:20])
    arguments = [f"--workdir={folder / 'run'}", f"--out={tmp_path / 'new.csv'}", "--top=4"]
    predict = ["predict", str(tmp_path / "some.npy"), *arguments, f"--calibration={tmp_path / 'calibration.json'}"]
    assert main(predict) == 0
    expected = cbjax.load(folder / "run", temperature=fitted).predict(own["images"][:20])
    np.testing.assert_allclose(
        [float(row[2]) for row in read(tmp_path / "new.csv")[1:]], expected.max(axis=1), rtol=1e-4
    )
    written = read(tmp_path / "new.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([*predict[:-1], "--calibration=~/calibration.json"]) == 0 and read(tmp_path / "new.csv") == written
    predictions.predict(folder / "run", tmp_path / "some.npy", "~/new.csv", top=4, calibration="~/calibration.json")
    assert read(tmp_path / "new.csv") == written
    (tmp_path / "calibration.json").write_text(json.dumps(file | {"step": 3}))
    assert main(predict) == 2 and "was fitted to step 3" in capsys.readouterr().err
    (tmp_path / "calibration.json").write_text(json.dumps(file | {"network": "0" * 64, "workdir": "seed_1"}))
    assert main(predict) == 2 and "was fitted to the network of seed_1" in capsys.readouterr().err
    for change in ("evaluation.tau=1 instead of 0", "data.evaluation_frames=random instead of middle"):
        (tmp_path / "calibration.json").write_text(json.dumps(file | {"changes": [change]}))
        assert main(predict) == 2 and f"fitted with {change}, which predictions cannot" in capsys.readouterr().err
    for text in ("[]", "{", '{"temperature": 1}', json.dumps(file | {"temperature": -1})):
        (tmp_path / "calibration.json").write_text(text)
        assert main(predict) == 2 and "--calibration=" in capsys.readouterr().err


def test_thresholds_change_the_order_and_not_the_probabilities(digits, tmp_path, capsys):
    run, folder = digits
    own, indices = np.load(folder / "own.npz"), np.load(folder / "run" / "indices.npz")
    images, labels = own["images"][indices["test"]], own["labels"][indices["test"]]
    np.savez(tmp_path / "new.npz", images=images, labels=labels, class_names=["nul", "one", "+two", "=three"])
    new = f"--config.data.file={tmp_path / 'new.npz'}"  # measured there, still fitted on the run's own validation
    assert call(folder, "--calibrate=thresholds", new, f"--out={tmp_path}") == 0
    file = json.loads((tmp_path / "calibration.json").read_text())
    after, before = (file[key]["validation"]["balanced_accuracy"] for key in ("after", "before"))
    assert after >= before and file["validation_images"] == len(indices["validation"])
    chances, thresholds = run.predict(images), np.array(file["thresholds"])
    predicted = (chances / thresholds).argmax(axis=1)
    truth = sklearn.metrics.balanced_accuracy_score(labels, predicted)
    assert file["after"]["test"]["balanced_accuracy"] == pytest.approx(truth)
    recalls = sklearn.metrics.recall_score(labels, predicted, average=None)
    (header, *rows), shown = read(tmp_path / "classes.csv"), capsys.readouterr().out
    after = [float(row[header.index("accuracy_after")]) for row in rows]
    np.testing.assert_allclose(after, recalls, rtol=1e-5)
    assert "accuracy after" in shown and all(f"{100 * recall:.1f}" in shown for recall in recalls)
    assert "accuracy_after" in shown.split("the probabilities stay")[1]
    given = [str(tmp_path / "new.npz"), f"--workdir={folder / 'run'}", f"--out={tmp_path / 'new.csv'}"]
    assert main(["predict", *given, f"--calibration={tmp_path / 'calibration.json'}"]) == 0
    _, *rows = read(tmp_path / "new.csv")
    names = ["nul", "one", "'+two", "'=three"]
    assert [row[1] for row in rows] == [names[c] for c in predicted]
    np.testing.assert_allclose([float(row[2]) for row in rows], chances[np.arange(len(labels)), predicted], rtol=1e-4)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("facts", "split", "message"),
    [
        ({}, "validation", "needs --split=test"),
        ({"multi_label": True}, "test", "labels are multi-hot"),
        ({"sizes": {"train": 5, "test": 5, "validation": 0}}, "test", "held out images for validation; this one did"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_first(facts, split, message):
    with pytest.raises(ConfigError, match=message):
        calibration_file.check({"multi_label": False, "sizes": {"validation": 9}, **facts}, split)
