"""What a sweep's cohorts are made of: how large, over which devices, and what stays a run's own."""

import dataclasses
import os

import jax
import numpy as np
import pytest

import cbjax
from cbjax import data
from cbjax.config import ConfigError
from cbjax.data.batches import Batches
from cbjax.host import machine
from cbjax.models.pretrained import Pretrained
from cbjax.parallel import sharding
from cbjax.sweeps import cohort, file, modes, plan
from cbjax.sweeps.modes import Choice
from cbjax.training import build, programs


def test_the_runs_of_a_cohort_start_from_pretrained_weights_too():
    config = cbjax.config.load("digits_lt")
    dataset, mesh = data.of_config(config), sharding.make_mesh(1)
    parts = build.build(config, dataset, mesh)
    params = jax.tree.map(np.zeros_like, parts.init().params)
    given = Pretrained({"head": params["head"]}, {}, ())
    member = cohort.make_member("0", config, dataset)
    members = [member, dataclasses.replace(member, parts=dataclasses.replace(parts, pretrained=lambda: given))]
    heads = cohort.start(members, mesh).state.params["head"]
    assert np.any(heads["kernel"][0]) and not np.any(heads["kernel"][1])


def test_runs_whose_programs_differ_are_refused_as_a_cohort():
    configs = [cbjax.config.load("digits_lt", [f"evaluation.tau={tau}"]) for tau in (0, 1)]
    members = [cohort.make_member(f"tau {k}", one, data.of_config(one)) for k, one in enumerate(configs)]
    with pytest.raises(RuntimeError, match="must share their programs; got others for tau 1 than for tau 0"):
        cohort.build_programs(members, sharding.make_mesh(1), 2)


@pytest.mark.parametrize(
    ("count", "mode", "size", "expected"),
    [(29, "devices", 16, [16, 8, 5]), (31, "vmap", 16, [16, 15]), (3, "devices", 8, [3]), (6, "devices", 5, [5, 1])],
)
def test_what_is_left_of_the_last_cohort_still_fills_the_devices(count, mode, size, expected):
    assert [len(cohort) for cohort in plan._cut(list(range(count)), size, mode)] == expected


def test_a_run_alone_stays_on_one_device_if_shares_of_a_batch_would_change_it(monkeypatch):
    def devices(name, *overrides):
        return modes.devices_alone(cbjax.config.load(name, list(overrides)))

    assert sharding.count_devices() == 8
    assert devices("digits_lt") == devices("imagenet:resnet50_softmax") == 1 and devices("digits_lt", "devices=2") == 2
    monkeypatch.setattr(modes.jax, "default_backend", lambda: "gpu")
    assert devices("imagenet:resnet50_softmax") is None
    assert devices("digits_lt") is None and devices("digits_lt", "devices=2") == 2
    assert devices("mnist_binary") == 1  # 100 images over 8 devices
    assert devices("digits_lt", "method=l2rw") == 1  # 100 meta images
    assert devices("digits_lt", "method=l2rw", "meta.batch_size=64") is None
    assert devices("cifar_lt:cdb") == 1 and devices("cifar_lt:cdb", "model.batch_norm_size=all") is None
    assert devices("cifar_lt:cdb", "model.batch_norm_size=16") is None


def test_statistics_over_the_whole_batch_do_not_mix_the_runs_of_a_cohort():
    config = cbjax.config.load("cifar_lt:cdb", ["model.name=resnet20", "model.batch_norm_size=all"])
    steps = programs.build_steps(config, Batches(256, 128, 0), (32, 32, 3), 10, axis=None)
    batch = {"image": np.zeros((2, 32, 32, 3), np.float32), "label": np.zeros(2, np.int32)}
    # An axis of devices would be unbound here; in a cohort it is the axis of the runs.
    jax.eval_shape(steps.train_step, steps.state, {**batch, "mask": np.ones(2, bool)})


def test_the_memory_of_a_cohort_is_estimated_and_a_cohort_that_does_not_fit_is_refused(monkeypatch):
    _, runs = file.load("digits_lt", ["devices=1"])
    dataset, mesh = data.of_config(runs[0].config), sharding.make_mesh(1)
    parts = build.build(runs[0].config, dataset, mesh)
    size = modes.run_bytes(parts, dataset, modes.memory_of_a_step(parts))
    shape, num_classes = dataset.train.images.shape[1:], len(dataset.class_names)
    cohort = programs.build_cohort_programs(runs[0].config, parts.batches, shape, num_classes, mesh, 4)
    states = sharding.placed(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((4, *leaf.shape), leaf.dtype), parts.programs.state), mesh
    )
    images = {
        "train": {
            "image": jax.ShapeDtypeStruct((4, *dataset.train.images.shape), np.uint8),
            "label": jax.ShapeDtypeStruct((4, len(dataset.train)), np.int32),
        }
    }
    order = {"train": jax.ShapeDtypeStruct((4, parts.steps_per_dispatch, parts.batches.batch_size), np.int32)}
    needed = cohort.train.lower(states, images, order, np.int32(1)).compile().memory_analysis()
    needed = needed.argument_size_in_bytes + needed.temp_size_in_bytes
    assert needed < 4 * size < 10 * needed
    monkeypatch.setattr(modes, "device_bytes", lambda: 3 * size / modes.SHARE)
    assert modes.choose(runs, "vmap", 3) == Choice("vmap", 3, [])
    with pytest.raises(ConfigError, match=r"--group-size: 4 runs would not fit .*of 1 device.*use at most 3"):
        modes.choose(runs, "vmap", 4)
    with pytest.raises(ConfigError, match=r"--group-size: 4 runs would not fit .*of 4 device.*use at most 3"):
        modes.choose(runs, "devices", 4)  # which on a CPU share its memory
    with monkeypatch.context() as patch:
        patch.setattr(modes.jax, "default_backend", lambda: "gpu")
        assert modes.choose(runs, "devices", 4) == Choice("devices", 4, [])
    _, runs = file.load("digits_lt", ["parallel=pmap"])  # which a cohort does not know
    assert modes.choose(runs, "vmap", 3) == Choice("vmap", 3, [])
    _, runs = file.load("digits_lt", ["devices=16"])
    with pytest.raises(ConfigError, match=r"run ce/seed_0: devices=16: this machine has 8 cpu"):
        modes.choose(runs, "vmap", 3)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({1: 10, 2: 5}, ("loop", 1)),
        ({1: 10, 2: 10.5}, ("loop", 1)),
        ({1: 10, 2: 19, 4: 36, 8: 37}, ("vmap", 4)),
        ({1: 10, 2: 19, 4: None}, ("vmap", 2)),
    ],
)
def test_auto_takes_the_smallest_cohort_that_is_about_as_fast(monkeypatch, rates, expected):
    _, runs = file.load("digits_lt", ["devices=1"])
    monkeypatch.setattr(modes, "_loop_rate", lambda run, dataset, mesh: rates[1])
    monkeypatch.setattr(modes, "_cohort_rate", lambda runs, mesh, per_device, load: rates[len(runs)])
    monkeypatch.setattr(modes, "runs_that_fit", lambda *args: 3 if None in rates.values() else 10**9)
    monkeypatch.setattr(modes.sharding, "count_devices", lambda: 1)
    choice = modes.choose(runs, "auto", None)
    assert (choice.mode, choice.group_size) == expected
    assert [row["run_steps_per_second"] for row in choice.measured] == list(rates.values())


def test_fewer_runs_than_devices_are_spread_too(monkeypatch):
    _, runs = file.load("digits_lt", ["devices=1"])
    monkeypatch.setattr(modes, "_loop_rate", lambda *args: 10.0)
    monkeypatch.setattr(modes, "_cohort_rate", lambda runs, mesh, per_device, load: 10.0 * mesh.devices.size)
    monkeypatch.setattr(modes, "runs_that_fit", lambda *args: 10**9)
    assert modes.choose(runs[:6], "auto", None)[:2] == ("devices", 6)
    assert modes.choose(runs[:6], "devices", 4)[:2] == ("devices", 4)
    monkeypatch.setattr(modes, "runs_that_fit", lambda *args: 5)  # of a CPU whose devices are more
    assert modes.choose(runs, "auto", None)[:2] == ("devices", 5)


@pytest.mark.parametrize(("most", "expected"), [(100, [8, 4]), (7, [7, 5]), (3, [3, 3, 3, 3])])
def test_every_device_gets_equally_many_runs_of_a_cohort_that_memory_limits(monkeypatch, most, expected):
    _, runs = file.load("digits_lt", ["devices=1"])
    monkeypatch.setattr(modes, "runs_that_fit", lambda *args: most)
    found = plan._cohorts([runs], runs, Choice("devices", 16, []), None, {}, lambda line: None)
    assert [len(names) for names in found] == expected


def test_runs_of_data_of_one_size_are_one_shape_and_each_shape_has_the_cohorts_that_fit(monkeypatch):
    _, runs = file.load("cdb_table1:short")
    runs = [run for run in runs if run.labels["seed"] == "0" and run.labels["method"] in ("CE", "CB")]
    even, large = {run.name: [10, 5, 5, 2] for run in runs}, {run.name: [9, 5, 5, 2] for run in runs[::2]}
    ratios = {run.config.data.majority_ratio for run in runs}
    assert len(ratios) == 5 and plan._by_shape(runs, even) == [runs] and len(plan._by_shape(runs, even | large)) == 2
    assert len(plan._by_shape(runs, {})) == 5
    told = []
    monkeypatch.setattr(modes, "runs_that_fit", lambda run, *args: 2 if run.name in large else 100)
    found = plan._cohorts(plan._by_shape(runs, even | large), runs, Choice("vmap", 4, []), None, {}, told.append)
    assert [len(names) for names in found] == [2, 4, 2, 2, 3, 2]
    assert len(told) == 1 and "2 at a time, as more would not fit into memory" in told[0]


def test_the_memory_of_a_process_is_what_is_available_within_its_limits(tmp_path, monkeypatch):
    real = machine.free_bytes()
    assert 1e8 < real < 1e15
    groups = tmp_path / "cgroup"
    for folder, limit, used in ((groups / "job", 5000, 3000), (groups / "job" / "step", 4000, 2500)):
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 700\n")
    (tmp_path / "own").write_text("0::/job/step\n")
    monkeypatch.setattr(machine, "CONTROL_GROUPS", groups)
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    assert machine.free_bytes() == 2200
    (groups / "job" / "step" / "memory.max").write_text("max\n")
    assert machine.free_bytes() == 2700
    (tmp_path / "own").unlink()
    assert machine.free_bytes() == pytest.approx(real, rel=0.5)


def test_the_cores_of_a_process_are_those_that_its_limits_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "OWN", tmp_path / "none")
    assert 1 <= machine.cores() <= os.cpu_count()
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/job/step\n")
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    for shares, expected in ((("max 100000", "max 100000"), 12), (("350000 100000", "max 100000"), 3)):
        for folder, share in zip((tmp_path / "job", tmp_path / "job" / "step"), shares, strict=True):
            (folder / "cpu.max").write_text(f"{share}\n")
        assert machine.cores() == expected
    (tmp_path / "job" / "step" / "cpu.max").write_text("50000 100000\n")
    assert machine.cores() == 1
