"""Whole runs on images that are read as they are needed: by list, table, tree and records; resumed; skipping."""

import json

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax import data
from cbjax.config import ConfigError
from cbjax.data import DataError, augment, normalization
from cbjax.data.crops import EvalTransform
from cbjax.host.writers import read_rows
from cbjax.parallel import sharding
from cbjax.training import build, loop, streaming
from cbjax.training.restore import evaluate
from cbjax.workdir.memory import timeless
from tests import own_nets
from tests.data.test_sources import write_encoded
from tests.photos import photo, write_csv, write_list, write_tree
from tests.stops import stopped_at

SPLITS = {"train": (20, 12, 8), "val": (3, 3, 3), "test": (4, 4, 4)}
SETTINGS = (
    "data.longtail=natural",
    "data.imbalance=1",
    "data.validation=0",
    "data.normalization=imagenet",
    "data.image_size=16",
    "data.crop_padding=0",
    "data.flip=true",
    "data.threads=2",
    f"model.name={own_nets.__file__}:pooled",  # compiles in a tenth of a ResNet's time
    "num_epochs=3",
    "batch_size=16",
    "devices=2",
    "optim.schedule=constant",
    "optim.warmup=0",
    "optim.learning_rate=0.01",
    "log.tensorboard=false",
    "log.report=false",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    return root, write_tree(root, SPLITS)


def settings(*more):
    return configs.load("cifar_lt:cdb", [*SETTINGS, *more])


def folder(root, *more):
    return settings("data.name=folder", f"data.root={root}", *more)


@pytest.fixture(scope="module")
def finished(tree, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("folder")
    return cbjax.train(folder(tree[0]), workdir), workdir


def assert_equal_runs(found, expected):
    for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_array_equal(one, other)


def rows_of(workdir):
    return [timeless(row) for row in read_rows(workdir / "metrics.jsonl")]


def test_a_run_on_a_tree_leaves_what_every_run_leaves(finished):
    run, workdir = finished
    facts = json.loads((workdir / "data.json").read_text())
    assert facts["image_shape"] == [16, 16, 3] and facts["image_dtype"] == "uint8"
    assert facts["counts"] == [20, 12, 8] and facts["sizes"] == {"train": 40, "validation": 9, "test": 12}
    results = json.loads((workdir / "results.json").read_text())
    assert np.asarray(results["confusion"]["last"]).sum() == 12
    assert [row["step"] for row in rows_of(workdir)] == [3, 5, 8, 8]
    assert run.predict(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 3)
    assert not (workdir / "bad_images.jsonl").exists()


def test_evaluating_a_checkpoint_gives_the_runs_own_figures(finished):
    run, workdir = finished
    for split in ("validation", "test"):
        for name, value in evaluate(workdir, split=split, trust_code=True).items():
            assert run.metrics[f"{split}/last/{name}"] == value


def test_a_checkpoint_is_evaluated_at_another_size(finished, tree, capsys):
    _, workdir = finished
    root, rows = tree
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    overrides = ["data.image_size=24", "data.resize=28", "evaluation.groups=rare=bee,2"]
    overrides += ["evaluation.batch_size=5", "devices=1"]
    found = evaluate(workdir, overrides=overrides, trust_code=True)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before
    shown = capsys.readouterr().out
    assert "evaluated with data.image_size=24 instead of 16" in shown and "data.resize=28 instead of None" in shown
    run, transform = cbjax.load(workdir, trust_code=True), EvalTransform(24, 28)
    pixels = np.stack([transform((root / path).read_bytes()) for path, _ in rows["test"]])
    images = augment.normalize(pixels, *normalization.NORMALIZATIONS["imagenet"])
    logits = np.asarray(run.model.apply(run.state.params, run.state.batch_stats, images, train=False)[0], np.float64)
    labels = np.array([label for _, label in rows["test"]])
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    correct = logits.argmax(axis=1) == labels
    assert found["loss"] == pytest.approx(-np.log(chances[np.arange(12), labels]).mean(), rel=1e-4)
    assert found["accuracy"] == pytest.approx(correct.mean())
    assert found["rare_accuracy"] == pytest.approx(correct[labels > 0].mean())
    assert found["loss"] != run.metrics["test/last/loss"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rate=1", "optim.learning_rate cannot change for an evaluation; these keys can: "),
        ("data.sampler=class_aware", "data.sampler cannot change"),
        ("data.resize=8", "data.resize must be at least data.image_size, 16"),
        ("data.image_size=big", "data.image_size must be a whole number"),
        ("evaluation.groups=rare=dog", "evaluation.groups must name classes of the data"),
    ],
)
def test_only_what_can_differ_at_test_time_is_changed(finished, override, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(finished[1], overrides=[override], trust_code=True)


def test_images_in_memory_have_one_size(tmp_path):
    cbjax.train(configs.load("digits_lt", ["model.name=linear", "num_epochs=1", "data.test=20"]), tmp_path)
    with pytest.raises(ConfigError, match=r"data.image_size must stay at 224 unless data.name is"):
        evaluate(tmp_path, overrides=["data.image_size=320"])
    found = evaluate(tmp_path, overrides=["evaluation.batch_size=40", "devices=1"])
    assert found["accuracy"] == cbjax.load(tmp_path).metrics["test/last/accuracy"]


def test_list_and_table_give_the_trees_run(finished, tree, tmp_path):
    root, rows = tree
    for name, write in (("list", write_list), ("csv", write_csv)):
        files = {split: write(tmp_path / f"{split}.{name}", sorted(rows[split])) for split in rows}
        run = cbjax.train(
            settings(
                f"data.name={name}",
                f"data.root={root}",
                f"data.train_list={files['train']}",
                f"data.validation_list={files['val']}",
                f"data.test_list={files['test']}",
                "num_epochs=1",
                "data.threads=1",
            ),
            tmp_path / name,
        )
        assert rows_of(tmp_path / name)[0] == rows_of(finished[1])[0]
        assert run.class_names == ("ant", "bee", "cat")


def test_records_give_the_trees_run(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    splits = {}
    for offset, (split, name) in enumerate((("train", "train"), ("val", "validation"), ("test", "test"))):
        rows = [(label, number) for label, count in enumerate(SPLITS[split]) for number in range(count)]
        # In the order of the tree, where the tenth comes before the second.
        rows.sort(key=lambda row: (row[0], f"{row[1]}.jpg"))
        splits[name] = [(photo(label, 1000 * offset + number), label) for label, number in rows]
    write_encoded(tmp_path, "photos", splits, ("ant", "bee", "cat"))
    config = settings("data.name=tfds:photos", f"data.data_dir={tmp_path}", "num_epochs=1")
    cbjax.train(config, tmp_path / "run")
    assert rows_of(tmp_path / "run")[0] == rows_of(finished[1])[0]


@pytest.mark.parametrize("step", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_in_an_epoch_ends_the_same(finished, tree, tmp_path, step):
    with stopped_at(step):
        cbjax.train(folder(tree[0]), tmp_path)
    run = cbjax.train(folder(tree[0], "data.threads=1"), tmp_path)
    assert_equal_runs(run.state, finished[0].state)
    assert rows_of(tmp_path) == rows_of(finished[1])


@pytest.mark.parametrize("kind", ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)])
def test_steps_may_be_asked_for_in_any_order(tree, kind):
    config = folder(tree[0], f"parallel={kind}", "devices=4")
    mesh = sharding.make_mesh(4)
    parts = build.build(config, data.prepare(config.data, 0), mesh)
    losses = [float(loop.fetch(parts.advance(parts.init(), step, step + 1)[1])["loss"]) for step in (0, 4, 1, 2, 4)]
    assert losses[1] == losses[4] and len(set(losses)) == 4
    with pytest.raises(ValueError, match="takes one step, got 0 to 2"):
        parts.advance(parts.init(), 0, 2)


def test_bad_images_are_skipped_and_listed_once(tmp_path, capsys):
    root = tmp_path / "images"
    write_tree(root, SPLITS)
    bad = [root / "train" / "ant" / "3.jpg", root / "val" / "bee" / "1.jpg"]
    bad[0].write_bytes(b"no image")
    bad[1].write_bytes(b"")
    with pytest.raises(DataError, match=r"it cannot be decoded .* or set data.on_bad_image=skip") as caught:
        cbjax.train(folder(root), tmp_path / "error")
    assert str(bad[0]) in str(caught.value)
    workdir = tmp_path / "skip"
    run = cbjax.train(folder(root, "data.on_bad_image=skip", "num_epochs=2"), workdir)
    rows = read_rows(workdir / "bad_images.jsonl")
    assert {row["image"] for row in rows} == set(map(str, bad)) and len(rows) == 2
    assert "the file is empty" in next(row["reason"] for row in rows if "bee" in row["image"])
    assert f"skipped {bad[0]}: it cannot be decoded" in capsys.readouterr().out
    # One of 40 training images is missing in each of two epochs, of 80 places in all.
    assert run.metrics["validation/last/accuracy"] * 8 % 1 == pytest.approx(0)


def test_skipped_images_are_in_no_figure_and_a_split_without_any_other_is_found_before_training(tmp_path, capsys):
    root = tmp_path / "images"
    write_tree(root, SPLITS)
    files = sorted((root / "test").rglob("*.jpg"))
    for path in files[-3:]:
        path.write_bytes(b"no image")
    workdir = tmp_path / "run"
    run = cbjax.train(folder(root, "data.on_bad_image=skip", "num_epochs=1"), workdir)
    confusion = np.array(json.loads((workdir / "results.json").read_text())["confusion"]["last"])
    assert confusion.sum(axis=1).tolist() == [4, 4, 1]
    assert run.metrics["test/last/accuracy"] == pytest.approx(confusion.trace() / confusion.sum())
    assert f"3 of {len(files)} test images are skipped and count nowhere" in capsys.readouterr().out
    for path in files:
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"none of the {len(files)} test images can be read.*the first: "):
        cbjax.train(folder(root, "data.on_bad_image=skip"), tmp_path / "none")
    assert not (tmp_path / "none" / "config.json").exists()


def test_the_mean_divides_by_the_images_that_are_there(tmp_path):
    root = tmp_path / "images"
    write_tree(root, SPLITS)
    (root / "train" / "ant" / "3.jpg").write_bytes(b"no image")
    config = folder(root, "data.on_bad_image=skip")
    parts = build.build(config, data.prepare(config.data, 0), sharding.make_mesh(2))
    state, counts = parts.init(), []
    for step in range(5):
        state, metrics = parts.advance(state, step, step + 1)
        counts.append(int(loop.fetch(metrics)["count"]))
    assert sum(counts) == 78 and min(counts) >= 15


def test_skipped_images_have_stand_ins_of_their_share():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 2, 2, 3), np.uint8)
    mask = np.array([0, 0, 1, 0] + [1, 1, 0, 0] + [0] * 4, bool)
    batch = {"image": np.where(mask[:, None, None, None], images, 0), "label": np.arange(12), "mask": mask}
    found = streaming.with_stand_ins(batch, 4)
    expected = [2, 2, 2, 2, 4, 5, 5, 5]
    np.testing.assert_array_equal(found["image"][:8], images[expected])
    assert not found["image"][8:].any() and found["mask"] is mask and found["label"] is batch["label"]
    whole = {**batch, "mask": np.ones(12, bool)}
    assert streaming.with_stand_ins(whole, 4) is whole


def test_a_skipped_image_is_not_in_the_statistics_of_batch_norm(tmp_path):
    stats, counts = [], []
    for name in ("whole", "one bad"):
        root = tmp_path / name
        write_tree(root, SPLITS)
        # All images are alike, so a stand-in equals the image that it replaces.
        for path in root.rglob("*.jpg"):
            path.write_bytes(photo(1, 1))
        if name == "one bad":
            (root / "train" / "ant" / "3.jpg").write_bytes(b"no image")
        config = folder(root, "data.on_bad_image=skip", "data.crop_area=1", "data.flip=false", "batch_size=40")
        parts = build.build(config, data.prepare(config.data, 0), sharding.make_mesh(2))
        state, metrics = parts.advance(parts.init(), 0, 1)
        stats.append(jax.device_get(state.batch_stats))
        counts.append(int(loop.fetch(metrics)["count"]))
    assert counts == [40, 39]
    jax.tree.map(np.testing.assert_array_equal, *stats)


@pytest.mark.parametrize("sampler", ["class_aware", "square_root", "progressive"])
def test_samplers_serve_images_in_memory_too(tmp_path, sampler):
    overrides = ["num_epochs=2", "data.validation=5", "data.test=20", f"data.sampler={sampler}"]
    config = configs.load("digits_lt", overrides)
    dataset = data.prepare(config.data, 0)
    batches = build.build(config, dataset, sharding.make_mesh(1)).batches
    drawn = np.bincount(dataset.train.labels[batches.indices_between(0, batches.epoch_end(1)).ravel()], minlength=10)
    assert drawn.min() > (0 if sampler == "progressive" else 1) * dataset.counts.min()


def test_other_images_under_the_same_names_are_refused(finished, tree, tmp_path):
    root = tmp_path / "images"
    write_tree(root, SPLITS)
    victim = root / "train" / "cat" / "0.jpg"
    victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"the run in .* have another size; use the former"):
        cbjax.train(folder(root), finished[1])
    (root / "train" / "cat" / "more.jpg").write_bytes(photo(2, 3))
    with pytest.raises(DataError, match=r"the run in .* with other data: an image, a label or a split differs"):
        cbjax.train(folder(root, "data.on_bad_image=skip"), finished[1])


def test_a_run_goes_on_where_a_listed_image_is_gone_or_repaired(tmp_path):
    root, workdir = tmp_path / "images", tmp_path / "run"
    rows = write_tree(root, SPLITS)
    files = {split: write_list(tmp_path / f"{split}.txt", rows[split]) for split in rows}
    lists = [f"data.{split}_list={files[name]}" for split, name in (("train", "train"), ("test", "test"))]
    config = ["data.name=list", f"data.root={root}", *lists, "data.validation=2", "data.on_bad_image=skip"]
    cbjax.train(settings(*config, "num_epochs=1"), workdir)
    gone, repaired = (root / rows["train"][place][0] for place in (0, 5))
    gone.unlink()
    repaired.write_bytes(repaired.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"are missing or have another size; .* data.on_bad_image=skip"):
        cbjax.train(settings(*config[:-1], "num_epochs=4"), workdir, extend=True)
    run = cbjax.train(settings(*config, "num_epochs=4"), workdir, extend=True)
    assert run.memory.epoch == 4
    assert [row["image"] for row in read_rows(workdir / "bad_images.jsonl")] == [str(gone)]
    # From then on, its data are those that it went on with.
    cbjax.train(settings(*config[:-1], "num_epochs=4"), workdir)
