"""Every method in whole runs on digits: stopped and resumed, on several devices, and several runs as one program."""

import json
import shutil

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax import data
from cbjax.config import ConfigError, evaluation
from cbjax.host.writers import read_rows
from cbjax.parallel import sharding
from cbjax.sweeps.file import load
from cbjax.sweeps.sweep import sweep
from cbjax.training import build
from cbjax.training.restore import evaluate
from cbjax.workdir.memory import timeless
from tests import processes

META = ("meta.name=l2rw", "data.meta=4", "meta.batch_size=16")
METHODS = {
    "ldam": ("loss.name=ldam", "loss.mean=weight_sum", "weights.name=class_balanced", "weights.start=0.5"),
    "logit_adjusted": ("loss.name=logit_adjusted",),
    "vs": ("loss.name=vs",),
    "poly": ("loss.name=poly",),
    "post_hoc": ("evaluation.tau=1",),
    "softmax_eql": ("loss.name=softmax_eql",),
    "ghm": ("loss.name=ghm",),
    "ghm_softmax": ("loss.name=ghm_softmax",),
    "l2rw": META,
    "mw_net": ("meta.name=mw_net", "meta.network_rate=1e-3", *META[1:]),
    "sam": ("sharpness.name=sam",),
    "imbsam": ("sharpness.name=imbsam", "sharpness.radius=0.1"),
    "mixup": ("mix.name=mixup", "loss.name=ldam", "weights.name=class_balanced"),
    "remix": ("mix.name=remix", "mix.alpha=0.5"),
    "cutmix": ("mix.name=cutmix", "mix.chance=0.5"),
    "cmo": ("mix.name=cmo", "mix.chance=0.5", "mix.start_epochs=1", "mix.end_epochs=1"),
}
# One of each kind: random masks, a state, parameters of its own, a second stream.
STATES = ("softmax_eql", "ghm", "mw_net", "cmo")


def of_methods(*quick):
    """Runs a test for each method; those that are not named here only with --slow."""
    every = [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in METHODS]
    return pytest.mark.parametrize("name", every)


def digits(name, *more):
    few = (
        "model.name=linear",
        "num_epochs=3",
        "data.validation=10",
        "data.test=20",
        "data.crop_padding=1",
        "checkpoint.every_epochs=1",
        "log.report=false",
    )
    return configs.load("digits_lt", [*few, *METHODS[name], *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """name -> (run, work directory), each trained once."""
    known = {}

    def train(name):
        if name not in known:
            workdir = tmp_path_factory.mktemp(name)
            known[name] = cbjax.train(digits(name, "devices=1"), workdir), workdir
        return known[name]

    return train


def leaves(run):
    state = run.state
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state, state.objective))]


@of_methods(*STATES)
def test_a_run_that_goes_on_from_an_earlier_checkpoint_ends_the_same(finished, tmp_path, name):
    whole, workdir = finished(name)
    shutil.copytree(workdir, tmp_path / "run")
    last = max(processes.checkpoints(workdir))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(last))
    (tmp_path / "run" / "results.json").unlink()
    again = cbjax.train(digits(name, "devices=1"), tmp_path / "run")
    for ours, theirs in zip(leaves(again), leaves(whole), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    rows = [[timeless(row) for row in read_rows(place / "metrics.jsonl")] for place in (tmp_path / "run", workdir)]
    assert rows[0] == rows[1]


@of_methods("ghm", "cmo")  # mw_net over devices: test_mw_net.py
@pytest.mark.parametrize("parallel", ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)])
def test_four_devices_give_what_one_gives(finished, tmp_path, name, parallel):
    assert_as_one(finished(name)[0], name, parallel, tmp_path)


def test_four_devices_give_what_one_gives_with_pmap(finished, tmp_path):
    assert_as_one(finished("cmo")[0], "cmo", "pmap", tmp_path)


def assert_as_one(one, name, parallel, workdir):
    four = cbjax.train(digits(name, "devices=4", f"parallel={parallel}"), workdir)
    for ours, theirs in zip(leaves(four), leaves(one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-3)
    key = "test/last/loss"
    assert four.metrics[key] == pytest.approx(one.metrics[key], rel=1e-3)


def test_answers_can_be_adjusted_after_training(finished):
    """Nothing of a finished run changes: evaluated with the tau that it had, its figures are its own."""
    run, workdir = finished("post_hoc")
    plain, adjusted = (evaluate(workdir, overrides=[f"evaluation.tau={tau}"]) for tau in (0, 1))
    assert adjusted == {key: run.metrics[f"test/last/{key}"] for key in adjusted}
    assert plain["loss"] != adjusted["loss"]
    _, one_vs_rest = finished("ghm")
    with pytest.raises(ConfigError, match=r"evaluation\.tau must be 0 when loss\.name is ghm"):
        evaluate(one_vs_rest, overrides=["evaluation.tau=1"])


@of_methods("post_hoc", *STATES)
def test_load_answers_as_the_run_did(finished, name):
    whole, workdir = finished(name)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(cbjax.load(workdir).predict(images), whole.predict(images))


@of_methods("ghm")
def test_runs_that_differ_in_their_seed_are_trained_as_one_program(finished, tmp_path, name):
    resolved = configs.load("digits_lt", METHODS[name])
    changes = {key: value for key, _, value in (one.partition("=") for one in METHODS[name])}
    for key in changes:
        section, _, leaf = key.rpartition(".")
        changes[key] = resolved[section][leaf]
    path = tmp_path / "seeds.py"
    path.write_text(
        "from cbjax.variants import Sweep, choices, product, seeds\n\n"
        "def get_sweep():\n"
        f'    return Sweep("digits_lt", product(choices("method", { ({name: changes})!r}), seeds(2)))\n'
    )
    few = ("num_epochs=3", "data.validation=10", "data.test=20", "data.crop_padding=1", "log.report=false")
    described, runs = load(path, ("model.name=linear", *few))
    _, failed = sweep("seeds", described, runs, tmp_path / "runs", mode="vmap", group_size=2)
    assert failed == {}
    _, workdir = finished(name)
    results = [
        json.loads((place / "results.json").read_text()) for place in (tmp_path / "runs" / name / "seed_0", workdir)
    ]
    ours, theirs = (result["last"]["test"]["loss"] for result in results)
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_numbers_of_a_method_compile_nothing_again():
    from cbjax.data import of_config
    from cbjax.parallel import sharding
    from cbjax.training import inputs
    from cbjax.training.programs import program_key

    mesh = sharding.make_mesh(1)

    def key(name, *more):
        config = digits(name, *more)
        dataset = of_config(config)
        batches = inputs.build_batches(config, dataset)
        return program_key(config, batches, dataset.train.images.shape[1:], 10, mesh)

    for name, number in (
        ("ldam", "loss.max_margin=0.3"),
        ("ldam", "loss.scale=10"),
        ("logit_adjusted", "loss.tau=2"),
        ("post_hoc", "evaluation.tau=0.5"),
        ("softmax_eql", "loss.rare_below=1"),
        ("softmax_eql", "loss.mask_chance=0.5"),
        ("ghm", "loss.momentum=0.5"),
        ("mw_net", "meta.network_rate=1e-4"),
        ("remix", "mix.kappa=2"),
        ("remix", "mix.alpha=2"),
        ("cmo", "mix.chance=0.1"),
        ("cmo", "mix.start_epochs=0"),
        ("sam", "sharpness.radius=0.2"),
        ("imbsam", "sharpness.tail_below=30"),
    ):
        assert key(name) == key(name, number)
    assert key("post_hoc") != key("post_hoc", "evaluation.tau=0")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("loss.name=ldam", "model.head=linear"), "model.head must be normalized, or auto, when loss.name is ldam"),
        (("model.head=normalized",), "model.head must be linear, or auto, when loss.name is softmax; got normalized"),
        (("loss.name=ghm", "loss.mean=weight_sum"), "loss.mean must be batch when loss.name is ghm"),
        (("loss.name=eql", "evaluation.tau=1"), "evaluation.tau must be 0 when loss.name is eql"),
        (("loss.epsilon=1",), "loss.epsilon must stay at 2.0 unless loss.name is poly"),
        (("loss.mask_chance=1",), "loss.mask_chance must stay at 0.9 unless loss.name is eql or softmax_eql"),
        (("loss.name=focal", "evaluation.tau=1"), "evaluation.tau must be 0 when loss.name is focal"),
        (("meta.name=l2rw",), "data.meta must be above 0 when meta.name is l2rw"),
        (
            (*META, "loss.name=ldam"),
            "loss.name must be softmax, sigmoid, focal or your own function when meta.name is",
        ),
        ((*META, "loss.mean=weight_sum"), "loss.mean must be batch when meta.name is l2rw"),
        ((*META, "optim.accumulation=2"), "optim.accumulation must be 1 when meta.name is l2rw; got 2"),
        ((*META, "devices=3", "batch_size=63"), "meta.batch_size must be a multiple of the number of devices, 3"),
        (("mix.name=mixup", "loss.name=ghm"), "mix.name must be none when loss.name is ghm, whose histogram"),
        (("mix.name=mixup", *META), "mix.name must be none when meta.name is l2rw"),
        (("mix.name=cmo", "num_epochs=6", "mix.start_epochs=4", "mix.end_epochs=2"), "below num_epochs, 6, .* got 6"),
        (("mix.name=cutmix", "mix.kappa=2"), "mix.kappa must stay at 3.0 unless mix.name is remix"),
        (("loss.tau=2",), "loss.tau must stay at 1.0 unless loss.name is logit_adjusted"),
        (("sharpness.radius=0.1",), "sharpness.radius must stay at 0.05 unless sharpness.name is sam or imbsam"),
        (("data.meta=4",), "data.meta must stay at 0 unless meta.name is l2rw"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        configs.load("digits_lt", overrides)


def test_a_recipe_with_meta_images_does_not_hold_them_out_in_vain(tmp_path):
    """A baseline made of it by one override would train on fewer images than others, unsaid."""
    (tmp_path / "meta.py").write_text(
        "from cbjax import config as configs\n"
        "def get_config():\n"
        "    return configs.load('digits_lt', ['meta.name=mw_net', 'data.meta=10'])\n"
    )
    with pytest.raises(ConfigError, match=r"data\.meta must stay at 0 unless meta.name is l2rw or mw_net"):
        configs.load(str(tmp_path / "meta.py"), ["meta.name=none"])
    assert configs.load(str(tmp_path / "meta.py"), ["meta.name=none", "data.meta=0"]).data.meta == 0
    # A run that was trained so can still be read and evaluated.
    former = configs.load(str(tmp_path / "meta.py"), []).copy_and_resolve_references()
    former.meta.name = "none"
    assert evaluation.change(former, ["evaluation.tau=1"])[0].data.meta == 10


@of_methods()
def test_a_killed_process_ends_the_same(tmp_path, name):
    given = [f"--config.{one}" for one in (*METHODS[name], "num_epochs=40", "checkpoint.every_epochs=1")]
    command = ("train", "--config=digits_lt", *given)
    done = processes.run(*command, f"--workdir={tmp_path / 'whole'}")
    assert done.returncode == 0, done.stderr
    process = processes.start(*command, f"--workdir={tmp_path / 'killed'}")
    assert processes.wait_for_checkpoint(process, tmp_path / "killed", 60)
    process.kill()
    process.communicate()
    done = processes.run(*command, f"--workdir={tmp_path / 'killed'}")
    assert done.returncode == 0 and "resumed at step" in done.stdout
    for ours, theirs in zip(*(leaves(cbjax.load(tmp_path / one)) for one in ("killed", "whole")), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(
    "given", [("mix.name=cmo",), ("mix.name=mixup",), ("loss.name=ghm",), ("loss.name=ghm_softmax",)]
)
def test_a_step_needs_no_promotion_of_types(given):
    config = configs.load("digits_lt", ["model.name=linear", "data.normalization=unit", *given])
    parts = build.build(config, data.of_config(config), sharding.make_mesh(1))
    with jax.numpy_dtype_promotion("strict"):
        state, _ = parts.advance(parts.init(), 0, 1)
    assert int(state.step) == 1
