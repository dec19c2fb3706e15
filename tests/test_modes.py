"""What a sweep's groups are made of: how large, over which devices, and what stays a run's own."""

import dataclasses

import jax
import numpy as np
import pytest

import cbjax
from cbjax import build, data, modes, plan, programs, run_group, sharding, variants
from cbjax.config import ConfigError
from cbjax.data.sampling import Batches
from cbjax.modes import Choice
from cbjax.pretrained import Pretrained
from cbjax.run_group import Member
from cbjax.types import Run


def test_the_runs_of_a_group_start_from_pretrained_weights_too():
    config = cbjax.config.load("digits_lt")
    dataset, mesh = data.of_config(config), sharding.make_mesh(1)
    parts = build.build(config, dataset, mesh)
    params = jax.tree.map(np.zeros_like, parts.init().params)
    given = Pretrained({"head": params["head"]}, {}, ())
    members = [
        Member(
            str(number),
            Run(config, parts.model, parts.programs.state, {}, dataset.class_names),
            dataclasses.replace(parts, pretrained=one),
            dataset,
            print,
        )
        for number, one in enumerate((None, lambda: given))
    ]
    heads = run_group.start(members, mesh).state.params["head"]
    assert np.any(heads["kernel"][0]) and not np.any(heads["kernel"][1])


@pytest.mark.parametrize(
    ("count", "mode", "size", "expected"),
    [(29, "devices", 16, [16, 8, 5]), (31, "vmap", 16, [16, 15]), (3, "devices", 8, [3]), (6, "devices", 5, [5, 1])],
)
def test_what_is_left_of_the_last_group_still_fills_the_devices(count, mode, size, expected):
    assert [len(group) for group in plan._cut(list(range(count)), size, mode)] == expected


def test_a_run_alone_stays_on_one_device_where_shares_of_a_batch_would_change_it():
    def devices(name, *overrides):
        return modes.devices_alone(cbjax.config.load(name, list(overrides)))

    assert sharding.count_devices() == 8
    assert devices("digits_lt") is None and devices("digits_lt", "devices=2") == 2
    assert devices("mnist_binary") == 1  # 100 images over 8 devices
    assert devices("cifar_lt:cdb") == 1 and devices("cifar_lt:cdb", "model.batch_norm_size=all") is None
    assert devices("cifar_lt:cdb", "model.batch_norm_size=16") is None


def test_statistics_over_the_whole_batch_stay_within_a_run_of_a_group():
    config = cbjax.config.load("cifar_lt:cdb", ["model.name=resnet20", "model.batch_norm_size=all"])
    steps = programs.build_steps(config, Batches(256, 128, 0), (32, 32, 3), 10, axis=None)
    batch = {"image": np.zeros((2, 32, 32, 3), np.float32), "label": np.zeros(2, np.int32)}
    # An axis of devices would be unbound here; in a group it is that of the runs.
    jax.eval_shape(steps.train_step, steps.state, {**batch, "mask": np.ones(2, bool)})


def test_the_memory_of_a_group_is_estimated_and_a_group_that_does_not_fit_is_refused(monkeypatch):
    _, runs = variants.load("digits_lt", ["devices=1"])
    dataset, mesh = data.of_config(runs[0].config), sharding.make_mesh(1)
    parts = build.build(runs[0].config, dataset, mesh)
    size = modes.run_bytes(parts, dataset)
    shape, num_classes = dataset.train.images.shape[1:], len(dataset.class_names)
    group = programs.build_group_programs(runs[0].config, parts.batches, shape, num_classes, mesh, 4)
    states = sharding.placed(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((4, *leaf.shape), leaf.dtype), parts.programs.state), mesh
    )
    images = {
        "image": jax.ShapeDtypeStruct((4, *dataset.train.images.shape), np.uint8),
        "label": jax.ShapeDtypeStruct((4, len(dataset.train)), np.int32),
    }
    order = jax.ShapeDtypeStruct((4, parts.steps_per_dispatch, parts.batches.batch_size), np.int32)
    needed = group.train.lower(states, images, order, np.int32(1)).compile().memory_analysis()
    needed = needed.argument_size_in_bytes + needed.temp_size_in_bytes
    assert needed < 4 * size < 10 * needed
    monkeypatch.setattr(modes, "device_bytes", lambda: 3 * size / modes.SHARE)
    assert modes.choose(runs, "vmap", 3) == Choice("vmap", 3, [])
    with pytest.raises(ConfigError, match=r"--group-size: 4 runs would need about 1\.3 times .*use at most 3"):
        modes.choose(runs, "vmap", 4)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({1: 10, 2: 5}, ("loop", 1)),
        ({1: 10, 2: 10.5}, ("loop", 1)),
        ({1: 10, 2: 19, 4: 36, 8: 37}, ("vmap", 4)),
        ({1: 10, 2: 19, 4: None}, ("vmap", 2)),
    ],
)
def test_auto_takes_the_smallest_group_that_is_about_as_fast(monkeypatch, rates, expected):
    _, runs = variants.load("digits_lt", ["devices=1"])
    monkeypatch.setattr(modes, "_loop_rate", lambda run, dataset, mesh: rates[1])
    monkeypatch.setattr(modes, "_group_rate", lambda runs, mesh, per_device, load: rates[len(runs)])
    monkeypatch.setattr(modes, "run_bytes", lambda parts, dataset: 1.0)
    monkeypatch.setattr(modes, "device_bytes", lambda: 3.0 if None in rates.values() else 1e9)
    monkeypatch.setattr(modes.sharding, "count_devices", lambda: 1)
    choice = modes.choose(runs, "auto", None)
    assert (choice.mode, choice.group_size) == expected
    assert [row["run_steps_per_second"] for row in choice.measured] == list(rates.values())
