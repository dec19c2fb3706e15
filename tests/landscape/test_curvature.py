"""Hessians of small runs against dense ones in float64 and against finite differences."""

import contextlib
import dataclasses
import pathlib
import signal
import threading

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax import landscape
from cbjax.cli import main
from cbjax.config import ConfigError
from cbjax.landscape import folder, images, products
from cbjax.parallel import sharding

NETS = pathlib.Path(__file__).parent.parent / "own_nets.py"


def train(folder, network):
    own = (f"model.name={NETS}:{network}", "model.initialization=glorot", "data.classes=0,1,2", "num_epochs=2")
    quiet = ("devices=1", "log.report=false", "log.progress=off", "log.tensorboard=false")
    cbjax.train(configs.load("digits_lt", [*own, *quiet]), folder)
    return cbjax.load(folder, trust_code=True)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return train(tmp_path_factory.mktemp("linear"), "linear")


def dense(subject, positions):
    """Returns the Hessian of softmax regression, in the order bias, kernel: the mean of (diag(p) - p p') x x'."""
    params, given = subject.network.params, subject.run.state.settings
    inputs = (subject.examples.images[positions].reshape(len(positions), -1) - np.asarray(given.mean)) / np.asarray(
        given.std
    )
    inputs = np.asarray(inputs, np.float64)
    logits = inputs @ params["kernel"].astype(np.float64) + params["bias"]
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    inner = np.einsum("nc,cd->ncd", chances, np.eye(3)) - np.einsum("nc,nd->ncd", chances, chances)
    inputs = np.concatenate([np.ones((len(inputs), 1)), inputs], axis=1)
    return np.einsum("ncd,ni,nj->icjd", inner, inputs, inputs).reshape(195, 195) / len(inputs)


def test_eigenvalues_are_those_of_the_dense_hessian(linear, tmp_path):
    options = {"by": ("all", "group"), "steps": 30, "probes": 2, "out": tmp_path, "progress": "off", "pictures": False}
    found = landscape.curvature(linear, **options)
    subject = landscape.open_run(linear)
    labels = subject.examples.labels
    assert [part.name for part in found.parts] == ["all images", "many", "medium", "few"]
    for name, classes in (("all images", range(3)), ("few", subject.groups["few"])):
        hessian = dense(subject, np.flatnonzero(np.isin(labels, classes)))
        values, part = np.linalg.eigvalsh(hessian), found[name]
        assert part.images == np.isin(labels, classes).sum()
        np.testing.assert_allclose(part.top(3), values[::-1][:3], rtol=1e-3)
        assert part.smallest == pytest.approx(0, abs=1e-4 * values[-1]) and part.residuals[1] < 1e-3 * values[-1]
        assert abs(part.trace - values.sum()) < max(5 * part.trace_error, 0.5 * values.sum())
    assert (tmp_path / "curvature.csv").read_text().count("\n") == 5
    again = landscape.read_curvature(tmp_path)
    assert repr(again) == repr(found)


def test_products_are_finite_differences_of_the_gradient_for_any_batch(linear):
    subject = landscape.open_run(linear)
    vector = np.random.default_rng(0).normal(size=195)
    few = images.some(subject.examples, products.of_classes(subject.examples, subject.groups["few"]))
    whole = products.build(subject, sharding.make_mesh(1)).of(few)
    product = whole.hessian(vector)
    np.testing.assert_allclose(
        products.build(subject, sharding.make_mesh(2), images_at_once=8).of(few).hessian(vector), product, atol=1e-5
    )
    step = 1e-2 / np.linalg.norm(vector)
    moved = []
    for sign in (1, -1):
        params, change = subject.network.params, sign * step * vector.astype(np.float32)
        params = {"bias": params["bias"] + change[:3], "kernel": params["kernel"] + change[3:].reshape(64, 3)}
        there = landscape.Subject(**{**vars(subject), "network": type(subject.network)(params, {})})
        moved.append(products.build(there, sharding.make_mesh(1)).of(few).gradient())
    np.testing.assert_allclose((moved[0] - moved[1]) / (2 * step), product, atol=0.02 * np.abs(product).max())


def test_a_stopped_hessian_goes_on_and_ends_with_the_same_figures(linear, tmp_path):
    options = {"by": ("group",), "steps": 8, "probes": 3, "progress": "off", "pictures": False}
    whole = landscape.curvature(linear, out=tmp_path / "whole", **options)
    timer = threading.Timer(0.15, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with contextlib.suppress(KeyboardInterrupt):
        landscape.curvature(linear, out=tmp_path / "parts", **options)
    timer.join()
    rest = landscape.curvature(linear, out=tmp_path / "parts", **options)
    for one, other in zip(whole.parts, rest.parts, strict=True):
        for here, there in zip(one.found, other.found, strict=True):
            np.testing.assert_array_equal(here.values, there.values)


def test_a_group_that_is_defined_anew_has_eigenvalues_of_its_own(linear, tmp_path):
    options = {"by": ("group",), "steps": 3, "probes": 1, "progress": "off", "pictures": False}
    first, other = (
        landscape.curvature(linear, out=tmp_path / c, overrides=[f"evaluation.groups=mine={c}"], **options)["mine"]
        for c in "02"
    )
    assert first.largest != pytest.approx(other.largest, rel=0.01)
    with pytest.raises(ConfigError, match=r"\(evaluation\.groups .*\[0\].* there, .*\[2\].* here\)"):
        landscape.curvature(linear, out=tmp_path / "0", overrides=["evaluation.groups=mine=2"], **options)
    # The settings of an older folder do not have the groups. Then the classes of a group tell whether it is the same.
    noted = folder.read_about(tmp_path / "0")
    del noted["settings"]["evaluation.groups"]
    folder.write_about(tmp_path / "0", noted)
    config = linear.config.copy_and_resolve_references()
    config.evaluation.groups = (("mine", (2,)),)
    again = landscape.curvature(dataclasses.replace(linear, config=config), out=tmp_path / "0", **options)
    assert again["mine"].largest == other.largest and again["few"].largest > 0


def test_a_network_that_diverged_is_said_to_have(linear, tmp_path):
    state = dataclasses.replace(linear.state, params=jax.tree.map(lambda leaf: leaf * np.nan, linear.state.params))
    diverged = dataclasses.replace(linear, state=state)
    given = {"out": tmp_path, "progress": "off", "pictures": False}
    with pytest.raises(ConfigError, match="the Hessian of all images is not finite: the network diverged"):
        landscape.curvature(diverged, steps=2, probes=1, **given)
    # Figures of another network of that step are not taken for this one's.
    with pytest.raises(ConfigError, match=r"networks .* there"):
        landscape.curvature(linear, steps=2, probes=1, **given)
    surface = landscape.random(diverged, dimensions=1, points=2, **{**given, "out": tmp_path / "surface"})
    assert repr(surface).endswith("loss nowhere finite")


def test_the_command_and_its_mistakes(linear, capsys):
    command = ["landscape", f"--from={linear.workdir}", "--hessian", "--trust-code"]
    assert main([*command, "--by=class", "--steps=2", "--probes=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"curvature: {linear.workdir}/landscape/curvature"
    assert lines[-2].startswith("class 2        5 ")
    made = {path.name for path in pathlib.Path(linear.workdir, "landscape", "curvature").iterdir()}
    assert {"density.svg", "eigenvalues.png", "curvature.csv"} <= made
    assert main([*command, "--by=classes"]) == 2
    assert "by must name some of all, group, class; got classes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--to=other"])
    with pytest.raises(ConfigError, match="steps 2 there, 6 here"):
        landscape.curvature(linear, by=("class",), steps=6, probes=1)
    with pytest.raises(ConfigError, match=r"holds a curvature, not a surface: landscape.read_curvature reads it"):
        landscape.read(pathlib.Path(linear.workdir, "landscape", "curvature"))
