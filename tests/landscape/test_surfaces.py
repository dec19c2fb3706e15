"""Surfaces of small runs against their evaluations and NumPy: each class, any chunk, kill and go on, statistics."""

import dataclasses
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax import landscape
from cbjax.cli import main
from cbjax.config import ConfigError
from cbjax.landscape import directions, grid, points, statistics
from cbjax.landscape.points import Way
from cbjax.landscape.subject import differences
from cbjax.training import restore

NETS = pathlib.Path(__file__).parent.parent / "own_nets.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    own = (f"model.name={NETS}:normalised", "model.initialization=glorot", "data.seed=0", "checkpoint.every_epochs=1")
    for seed, keys in ((0, ("num_epochs=4", "checkpoint.keep=all")), (1, ("num_epochs=1",))):
        quiet = ("devices=1", "log.report=false", "log.progress=off", "log.tensorboard=false")
        config = configs.load("digits_lt", [*own, *keys, *quiet, f"seed={seed}"])
        cbjax.train(config, folder / str(seed))
    return [cbjax.load(folder / str(seed), trust_code=True) for seed in (0, 1)]


@pytest.fixture(scope="module")
def subject(runs):
    return landscape.open_run(runs[0], split="test")


def options(tmp_path, name="any", **others):
    return {
        "split": "test",
        "out": tmp_path / name,
        "progress": "off",
        "pictures": False,
        "points_at_once": 1,
        **others,
    }


def oracle(subject, found, place):
    """Returns loss and accuracy of each class at a place, in float64 from the network's logits."""
    network = subject.network.params
    for amount, one in zip(place, found.along, strict=True):
        network = jax.tree.map(lambda leaf, step, amount=amount: leaf + np.float32(amount) * step, network, one.params)
    images = (subject.examples.images - np.asarray(subject.run.state.settings.mean)) / np.asarray(
        subject.run.state.settings.std
    )
    logits = subject.run.model.apply(network, subject.network.batch_stats, images.astype(np.float32), train=False)[0]
    logits = np.asarray(logits, np.float64)
    labels = subject.examples.labels
    losses = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    losses -= logits[np.arange(len(labels)), labels]
    right = logits.argmax(1) == labels
    return [np.array([values[labels == c].mean() for c in range(10)]) for values in (losses, right)]


def test_each_class_is_what_numpy_makes_of_it(subject, runs, tmp_path):
    surface = landscape.random(runs[0], points=3, span=(-0.5, 0.5), **options(tmp_path))
    found = directions.random(subject.network, 2, 123)
    for i, j in ((0, 2), (1, 1), (2, 1)):
        losses, accuracies = oracle(subject, found, (surface.axes[0][i], surface.axes[1][j]))
        np.testing.assert_allclose(surface.class_loss[i, j], losses, rtol=2e-5)
        np.testing.assert_array_equal(surface.class_accuracy[i, j], accuracies)
        assert surface.group_loss("few")[i, j] == pytest.approx(losses[subject.groups["few"]].mean(), rel=2e-5)
        assert surface.loss[i, j] == pytest.approx(surface.weighted_loss(np.ones(10))[i, j], rel=1e-6)
    # The origin is the run itself.
    metrics = cbjax.load(runs[0].workdir, trust_code=True).metrics
    assert surface.loss[1, 1] == pytest.approx(metrics["test/last/loss"], rel=1e-5)
    assert surface.balanced_accuracy[1, 1] == pytest.approx(metrics["test/last/balanced_accuracy"])
    assert repr(surface).startswith("Surface of 3 x 3 points: random in ")
    # It is read again, not measured again; other settings are refused.
    again = landscape.read(surface.folder)
    np.testing.assert_array_equal(again.class_loss, surface.class_loss)
    with pytest.raises(ConfigError, match=r"other settings .*points 3 there, 5 here"):
        landscape.random(runs[0], points=5, span=(-0.5, 0.5), **options(tmp_path))
    with pytest.raises(ValueError, match="no group 'rare' of classes; there are many, medium, few"):
        surface.group_loss("rare")
    # What is not measured is nowhere taken for a loss of 0.
    missing = dataclasses.replace(surface, class_loss=np.where(np.eye(3)[..., None] > 0, np.nan, surface.class_loss))
    np.testing.assert_array_equal(np.isnan(missing.weighted_loss(np.ones(10))), np.eye(3) > 0)
    with pytest.raises(ConfigError, match="span must be within the range of float32; got -1e"):
        landscape.random(runs[0], points=3, span=(-1e300, 1), **options(tmp_path))


def test_the_origin_is_the_run_evaluated_with_the_same_overrides(runs, tmp_path):
    given, asked = ["evaluation.tau=2"], {"dimensions": 1, "points": 3}
    plain = landscape.random(runs[1], **asked, **options(tmp_path))
    surface = landscape.random(runs[1], **asked, **options(tmp_path, "adjusted", overrides=given))
    expected = restore.evaluate(runs[1].workdir, overrides=given, trust_code=True)
    assert surface.loss[1] == pytest.approx(expected["loss"], rel=1e-5)
    assert surface.balanced_accuracy[1] == pytest.approx(expected["balanced_accuracy"])
    assert abs(surface.loss[1] - plain.loss[1]) > 0.1
    # What is kept is for these overrides: others are refused, and those that change no figure go on.
    with pytest.raises(ConfigError, match=r"\(evaluation\.tau 2\.0 there, as in training here\): give this"):
        landscape.random(runs[1], **asked, **options(tmp_path, "adjusted"))
    with pytest.raises(ConfigError, match=r"\(evaluation\.tau as in training there, 2\.0 here\)"):
        landscape.random(runs[1], **asked, **options(tmp_path, overrides=given))
    same = ["evaluation.tau=0", "evaluation.batch_size=50", "evaluation.groups=rare=8,9"]
    again = landscape.random(runs[1], **asked, **options(tmp_path, overrides=same))
    np.testing.assert_array_equal(again.class_loss, plain.class_loss)
    np.testing.assert_allclose(again.group_loss("rare"), plain.class_loss[:, 8:].mean(axis=1), rtol=1e-5)
    config = runs[1].config.copy_and_resolve_references()
    config.loss.name = "focal"
    with pytest.raises(ConfigError, match=r"evaluation\.tau must be 0 when loss\.name is focal.*one-vs-rest; got 2"):
        landscape.random(dataclasses.replace(runs[1], config=config), **options(tmp_path, "focal", overrides=given))


def test_what_the_second_run_computes_in_another_way_is_said(subject):
    def another(**keys):
        config = subject.run.config.copy_and_resolve_references()
        for key, value in keys.items():
            section, _, name = key.partition("__")
            config[section][name] = value
        return dataclasses.replace(subject, run=dataclasses.replace(subject.run, config=config))

    focal = another(loss__name="focal")
    assert differences(subject, subject) == []
    assert differences(focal, another(loss__name="focal", loss__gamma=5.0)) == ["loss (loss.gamma)"]
    assert differences(subject, another(loss__gamma=5.0)) == []  # which softmax has not
    assert differences(subject, another(evaluation__tau=1.0)) == ["loss (evaluation.tau)"]
    resnet = {"model__name": "resnet20", "model__code": None}
    found = differences(another(**resnet), another(**resnet, model__shortcut="subsample"))
    assert found == ["network (model.shortcut)"]


def test_a_landscape_takes_as_many_devices_as_the_run_or_the_override_says(subject):
    assert jax.device_count() == 8 and subject.devices == 1  # devices=1 in the run's config
    four = landscape.open_run(subject.root, overrides=["devices=4"], trust_code=True)
    assert four.devices == 4 and points.ways(3, four.devices)[1] == Way(3, 1) and points.ways(9, 4)[1] == Way(4, 1)


def test_figures_do_not_depend_on_how_many_are_taken_at_once(subject, tmp_path):
    found = directions.random(subject.network, 1, 0)
    places = np.linspace(-1, 1, 7)[:, None]
    first, _ = grid.measure(subject, found, places, way=Way(1, 1))
    for way, images_at_once in ((Way(2, 3), 500), (Way(1, 1), 70)):
        other, _ = grid.measure(subject, found, places, way=way, images_at_once=images_at_once)
        np.testing.assert_allclose(other.class_loss, first.class_loss, rtol=1e-5)
        np.testing.assert_array_equal(other.correct, first.correct)
        np.testing.assert_array_equal(other.class_count, first.class_count)


def test_a_stopped_walk_goes_on_and_ends_with_the_same_figures(subject):
    found = directions.random(subject.network, 1, 0)
    places = np.linspace(-1, 1, 7)[:, None]
    options = {"way": Way(1, 1), "block_seconds": 0.0}
    whole, _ = grid.measure(subject, found, places, **options)
    kept = []
    with pytest.raises(grid.Stopped, match=r"stopped by SIGINT; \d of 7 points are saved"):
        grid.measure(
            subject,
            found,
            places,
            save=lambda sums, way: kept.append(sums),
            progress=lambda count: signal.raise_signal(signal.SIGINT),
            **options,
        )
    assert 0 < kept[-1].done.sum() < 7
    rest, _ = grid.measure(subject, found, places, before=kept[-1], **options)
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(rest, name), values)


def test_a_line_ends_at_the_runs(runs, tmp_path):
    surface = landscape.line(*runs, points=3, span=(0, 1), **options(tmp_path))
    for place, run in ((0, runs[0]), (2, runs[1])):
        expected = cbjax.load(run.workdir, trust_code=True).metrics["test/last/loss"]
        assert surface.loss[place] == pytest.approx(expected, rel=1e-4)
    assert surface.marks == {"0": (0.0,), "1": (1.0,)}


def test_statistics_on_a_line_are_those_of_each_run_whatever_their_signs(subject):
    def with_means(sign):
        def one(path, leaf):
            return sign * np.abs(leaf) if "mean" in str(path) else leaf

        return directions.Network(
            subject.network.params, jax.tree_util.tree_map_with_path(one, subject.network.batch_stats)
        )

    networks = [with_means(1), with_means(-1)]
    batch = {"image": subject.examples.images[:40], "label": subject.examples.labels[:40], "mask": np.ones(40, bool)}

    def losses(found, place):
        return points.build(subject, found, "interpolate", Way(1, 1)).sums(np.array([[place]]), batch, None)[
            "class_loss"
        ]

    found = directions.line(*networks, ["positive", "negative"])
    for place, network in enumerate(networks):
        alone = dataclasses.replace(found, center=network, marks={"alone": (0.0,)})
        np.testing.assert_allclose(losses(found, float(place)), losses(alone, 0.0), rtol=1e-5)
    # Variances stay above 0 beyond the runs.
    assert np.isfinite(losses(found, 40.0)).all()


def test_what_a_line_takes_from_its_first_run_is_told(runs, tmp_path, capsys):
    config = runs[1].config.copy_and_resolve_references()
    config.loss.name = "focal"
    settings = runs[1].state.settings
    state = dataclasses.replace(runs[1].state, settings=settings._replace(mean=np.asarray(settings.mean) + 1))
    other = dataclasses.replace(runs[1], config=config, state=state)
    landscape.line(runs[0], other, points=2, **options(tmp_path))
    said = "1 has another loss (loss.name), scale of pixels than 0: what 0 has is taken for all points"
    assert said in capsys.readouterr().out


def test_a_moved_run_has_its_landscapes_and_another_run_has_not(runs, tmp_path):
    asked = {"dimensions": 1, "points": 2, "trust_code": True, **options(tmp_path)}
    first = landscape.random(runs[1], **asked)
    shutil.copytree(runs[1].workdir, tmp_path / "moved")
    again = landscape.random(tmp_path / "moved", **asked)
    np.testing.assert_array_equal(again.class_loss, first.class_loss)
    assert landscape.read(first.folder).about["runs"][0]["workdir"] == str(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"networks .* there, .* here"):
        landscape.random(runs[0], **asked)
    with pytest.raises(ConfigError, match=r"other settings \(kind random there, curvature here\)"):
        landscape.curvature(runs[1], out=first.folder, split="test")


def test_statistics_are_those_of_the_training_images(subject):
    found = directions.random(subject.network, 1, 0, biases="normalize")
    made = points.build(subject, found, "recompute", Way(1, 1))
    recomputed = statistics.Recomputed(subject, found, made).at(np.array([[0.5]]))
    (mean,), (variance,) = (
        [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(recomputed) if name in str(path)]
        for name in ("mean", "var")
    )
    params = jax.tree.map(lambda leaf, step: leaf + 0.5 * step, subject.network.params, found.along[0].params)
    kernels = {tuple(str(key) for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    (kernel,) = (leaf for path, leaf in kernels.items() if leaf.shape == (64, 16))
    (bias,) = (leaf for path, leaf in kernels.items() if leaf.shape == (16,) and "Dense" in str(path))
    given, order = subject.run.state.settings, np.random.default_rng(0).permutation(363)[:320]
    images = (subject.dataset.train.images[order] - np.asarray(given.mean)) / np.asarray(given.std)
    outputs = images.reshape(5, 64, 64).astype(np.float64) @ kernel + bias
    np.testing.assert_allclose(mean[0], outputs.mean(axis=1).mean(axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(variance[0], outputs.var(axis=1).mean(axis=0), rtol=1e-3, atol=1e-4)


def test_a_trajectory_is_drawn_where_its_checkpoints_are(runs, tmp_path, capsys):
    surface = landscape.trajectory(runs[0], points=3, **options(tmp_path))
    steps = surface.about["steps"]
    assert steps == [0, 6, 12, 18, 23] and surface.path.shape == (5, 2)
    np.testing.assert_allclose(surface.path[-1], 0, atol=1e-5)
    assert 0.5 < sum(surface.about["explained"]) <= 1
    keys = ("model.name=linear", "num_epochs=4", "checkpoint.every_epochs=1", "checkpoint.keep=all", "log.report=false")
    linear = cbjax.train(configs.load("digits_lt", [*keys, "log.tensorboard=false", "devices=1"]), tmp_path / "linear")
    config = linear.config.copy_and_resolve_references()
    config.stage.name, config.stage.source = "tau", str(tmp_path / "gone")  # a second stage, whose first is not there
    rest = landscape.trajectory(dataclasses.replace(linear, config=config), points=2, **options(tmp_path, "rest"))
    assert (
        rest.about["steps"] == [6, 12, 18, 23] and "the way begins at the first checkpoint" in capsys.readouterr().out
    )
    for axis, along in zip(surface.axes, surface.path.T, strict=True):
        assert axis[0] < along.min() and axis[-1] > along.max()


def test_a_landscape_from_the_command_line(runs, capsys):
    command = ["landscape", f"--from={runs[1].workdir}", "--points=3", "--trust-code"]
    assert main([*command, "--dimensions=1", "--statistics=recompute", "--split=validation"]) == 0
    folder = pathlib.Path(runs[1].workdir, "landscape", "random")
    assert capsys.readouterr().out.splitlines()[-1] == f"landscape: {folder}"
    assert {path.name for path in folder.iterdir()} >= {
        *("landscape.json", "directions.npz", "points.npz", "points.csv"),
        *(f"{name}.{kind}" for name in ("loss", "accuracy", "classes") for kind in ("png", "svg")),
    }
    surface = landscape.read(folder)
    assert dataclasses.asdict(surface)["about"]["statistics"] == "recompute" and np.isfinite(surface.loss).all()
    for wrong, message in (
        (["--span=1:1"], "must be LOW:HIGH"),
        (["--to=a", "--to=b", "--to=c"], "once, for a line, or twice"),
        (["--trajectory"], "a trajectory needs at least 3 checkpoints"),
        (["--trajectory", "--dimensions=2"], "--dimensions does nothing for --trajectory, but for random directions: "),
        (["--trajectory", "--seed=1"], "--seed does nothing for --trajectory, but for random directions, --hessian: "),
        (["--to=a", "--batch-norm=copy"], "--batch-norm does nothing for a line (--to), but for random directions: "),
        (["--to=a", "--to=b", "--span=0:1"], "--span does nothing for a plane (--to twice), but for "),
        (["--to=a", "--probes=1"], "--probes does nothing for a line (--to), but for --hessian: leave it out"),
        (["--hessian"], "--points does nothing for --hessian, but for random directions, a line (--to), "),
    ):
        try:
            status = main([*command, *wrong])
        except SystemExit as stop:
            status = stop.code
        assert status == 2 and message in capsys.readouterr().err
