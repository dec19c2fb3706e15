"""Mixed images and meta images that are read as they are needed: the batches and what a step makes of them."""

import dataclasses
import io

import jax
import numpy as np
import pytest
import scipy.optimize
from PIL import Image

import cbjax
from cbjax import config as configs
from cbjax.data import of_config, samplers
from cbjax.data.batches import Batches, Partners
from cbjax.data.clips.transforms import TrainClip
from cbjax.data.crops import TrainTransform
from cbjax.parallel import sharding
from cbjax.training import build, input_paths, inputs
from tests import clips, own_nets
from tests.photos import write_tree
from tests.stops import stopped_at

SPLITS = {"train": (11, 7, 4), "test": (2, 2, 2)}
SEED, SIDE, FRAMES = 5, 8, 3
SETTINGS = (
    *("data.name=folder", "data.longtail=natural", "data.imbalance=1", "data.validation=0", "weights.name=uniform"),
    *("data.normalization=symmetric", "data.crop_padding=0", f"seed={SEED}"),
    *(f"model.name={own_nets.__file__}:linear", "num_epochs=2", "batch_size=8", "devices=1"),
    *("optim.schedule=constant", "optim.warmup=0", "optim.momentum=0", "optim.weight_decay=0", "log.report=false"),
    "log.tensorboard=false",
)
CROPPED = (f"data.image_size={SIDE}", "data.crop_area=0.5", "data.flip=true", "data.threads=2")
META = ("data.meta=2", "meta.batch_size=6")
METHODS = {
    **{name: (f"mix.name={name}",) for name in ("mixup", "cutmix", "remix", "cmo")},
    **{name: (f"meta.name={name}", *META) for name in ("l2rw", "mw_net")},
}


def of_methods(*quick):
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in METHODS]
    )


def pixels(label, seed, count=1):
    rng = np.random.default_rng([label, seed])
    return rng.integers(1, 200, (count, SIDE, SIDE, 3), np.uint8) + np.uint8(20 * label)


def write_image(path, label, seed):
    Image.fromarray(pixels(label, seed)[0]).save(path, "PNG")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_tree(root, SPLITS, ending="png", write=write_image)
    return root


@pytest.fixture(scope="module")
def clip_tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    write = lambda path, label, seed: clips.write_frames(path, pixels(label, seed, 5), "PNG")  # noqa: E731
    write_tree(root, SPLITS, ending="frames", write=write)
    return root


def folder(root, name, *more):
    return configs.load("cifar_lt:cdb", [*SETTINGS, *CROPPED, f"data.root={root}", *METHODS[name], *more])


def advance_of(config, dataset, program, devices=1):
    batches = inputs.build_batches(config, dataset)
    mesh, ignore = sharding.make_mesh(devices), lambda name, reason: None
    return input_paths.STREAMED.advance(config, dataset, batches, program, 1, mesh, ignore)


def batches_at(config, dataset, steps, devices=1):
    """Returns what the training program gets at each step."""
    advance = advance_of(config, dataset, lambda state, batch: (state, jax.device_get(batch)), devices)
    return [advance(None, step, step + 1)[1] for step in steps]


def crops_of(config, split, positions, places, seed=SEED):
    """Decodes the images at the positions, with the crops of the places."""
    crop = TrainTransform(SIDE, seed, 0.5, True)
    crop = TrainClip(FRAMES, crop) if config.data.frames else crop
    each = zip(positions.tolist(), places.tolist(), strict=True)
    return np.stack([crop(split.images.read(position), place) for position, place in each])


def partners_at(config, dataset, step):
    """Returns images, labels and partners of a step by the published orders."""
    train, size = dataset.train, config.batch_size
    batches, first = Batches(len(train), size, SEED), step * size
    positions, places = batches.indices(step), first + np.arange(size)
    own = crops_of(config, train, positions, places), train.labels[positions]
    if config.mix.name != "cmo":
        moved = Partners(batches, SEED).places(step)
        return *own, crops_of(config, train, positions[moved], places[moved]), own[1][moved]
    order = samplers.make_order("oversample", train.labels, SEED + 2)
    positions = Batches(len(train), size, SEED, order=order).indices(step)
    return *own, crops_of(config, train, positions, places, SEED + 2), train.labels[positions]


@pytest.mark.parametrize("name", ["mixup", "cmo"])
def test_partners_come_by_the_published_order_with_their_crops(tree, name):
    config = folder(tree, name)
    dataset = of_config(config)
    for devices in (1, 2):
        for step, batch in zip((0, 4, 2), batches_at(config, dataset, (0, 4, 2), devices), strict=True):
            images, labels, others, their_labels = partners_at(config, dataset, step)
            np.testing.assert_array_equal(batch["image"], images)
            np.testing.assert_array_equal(batch["label"], labels)
            np.testing.assert_array_equal(batch["partner"]["image"], others)
            np.testing.assert_array_equal(batch["partner"]["label"], their_labels)


def test_meta_images_come_class_by_class_with_crops_of_their_own(tree):
    config = folder(tree, "l2rw")
    dataset = of_config(config)
    assert np.bincount(dataset.meta.labels).tolist() == [2, 2, 2] and dataset.counts.tolist() == [9, 5, 2]
    order = samplers.make_order("class_aware", dataset.meta.labels, SEED + 1, images_per_class=1)
    meta = Batches(6, 6, SEED, order=order)
    for step, batch in zip((0, 3), batches_at(config, dataset, (0, 3), 2), strict=True):
        positions = meta.indices(step)
        expected = crops_of(config, dataset.meta, positions, 6 * step + np.arange(6), SEED + 1)
        np.testing.assert_array_equal(batch["meta"]["image"], expected)
        np.testing.assert_array_equal(batch["meta"]["label"], dataset.meta.labels[positions])
        assert batch["meta"]["mask"].all() and np.bincount(batch["meta"]["label"]).tolist() == [2, 2, 2]


def inputs_of(images):
    return np.float64(images) / 128 - 1


def slope(params, images, targets):
    """The gradient of the mean softmax loss by the kernel of a linear network, in float64."""
    flat = images.reshape(len(images), -1)
    logits = flat @ np.float64(params["kernel"]) + np.float64(params["bias"])
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    return flat.T @ (chances / chances.sum(axis=1, keepdims=True) - targets) / len(images)


def one_step(config, step):
    """Returns the parameters before a step, the kernel's change in float64, and what was to be mixed."""
    dataset = of_config(config)
    parts = build.build(config, dataset, sharding.make_mesh(1))
    state = parts.init()
    state = dataclasses.replace(state, step=state.step + step)
    before = jax.device_get(state.params)
    after = jax.device_get(parts.advance(state, step, step + 1)[0].params)
    return before, np.float64(before["kernel"]) - after["kernel"], dataset, partners_at(config, dataset, step)


@pytest.mark.parametrize("name", ["mixup", pytest.param("remix", marks=pytest.mark.slow)])
def test_a_step_is_that_of_blended_images_and_labels(tree, name):
    config = folder(tree, name, "optim.learning_rate=1", *(("mix.kappa=1.5",) if name == "remix" else ()))
    before, change, dataset, (images, labels, others, their_labels) = one_step(config, 3)
    counts = np.float64(dataset.counts)

    def expected(share):
        own = np.full(len(labels), share)
        if name == "remix":
            ratio = counts[labels] / counts[their_labels]
            own = np.where((ratio >= 1.5) & (share < 0.5), 0, own)
            own = np.where((ratio <= 1 / 1.5) & (1 - share < 0.5), 1, own)
        targets = own[:, None] * np.eye(3)[labels] + (1 - own[:, None]) * np.eye(3)[their_labels]
        return slope(before, share * inputs_of(images) + (1 - share) * inputs_of(others), targets)

    def error(share):
        return np.abs(expected(share) - change).max()

    near = min(np.linspace(0, 1, 101), key=error)
    share = scipy.optimize.minimize_scalar(error, bounds=(near - 0.01, near + 0.01), options={"xatol": 1e-8}).x
    assert 0.02 < share < 0.98
    np.testing.assert_allclose(change, expected(share), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("clips", "cmo"), *(pytest.param("images", name, marks=pytest.mark.slow) for name in ("cmo", "cutmix"))],
)
def test_a_step_is_that_of_images_with_one_box_of_their_partners(tree, clip_tree, kind, name):
    more = (f"data.frames={FRAMES}",) if kind == "clips" else ()
    config = folder(clip_tree if more else tree, name, "optim.learning_rate=1", *more)
    before, change, _, (images, labels, others, their_labels) = one_step(config, 3)
    images, others = inputs_of(images), inputs_of(others)
    ends = [(first, last) for first in range(SIDE) for last in range(first + 1, SIDE + 1)]
    fitting = []
    for top, bottom in ends:
        for left, right in ends:
            mixed = images.copy()
            mixed[..., top:bottom, left:right, :] = others[..., top:bottom, left:right, :]
            share = 1 - (bottom - top) * (right - left) / SIDE**2
            targets = share * np.eye(3)[labels] + (1 - share) * np.eye(3)[their_labels]
            if np.allclose(slope(before, mixed, targets), change, atol=1e-5):
                fitting.append(share)
    assert len(fitting) == 1 and 0 < fitting[0] < 1


def trained(config, steps=4, devices=1):
    parts = build.build(config, of_config(config), sharding.make_mesh(devices))
    state = parts.init()
    for step in range(steps):
        state, _ = parts.advance(state, step, step + 1)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.objective))]


@of_methods("l2rw")
def test_without_crops_a_run_equals_that_of_the_same_images_in_memory(tree, tmp_path, name):
    plain = ("data.crop_area=1", "data.flip=false")
    config = folder(tree, name, *plain)
    source = configs.load("cifar_lt:cdb", [*SETTINGS, *CROPPED, f"data.root={tree}"])
    arrays = {}
    for split in ("train", "test"):
        found = getattr(of_config(source), split)
        images = [np.asarray(Image.open(io.BytesIO(found.images.read(i)))) for i in range(len(found))]
        arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": found.labels}
    np.savez(tmp_path / "data.npz", **arrays)
    given = ("data.name=arrays", f"data.file={tmp_path / 'data.npz'}", "data.flip=false", "steps_per_dispatch=1")
    resident = configs.load("cifar_lt:cdb", [*SETTINGS, *given, *METHODS[name]])
    for ours, theirs in zip(trained(config), trained(resident), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mixup", ()),
        *(pytest.param(name, (), marks=pytest.mark.slow) for name in ("cmo", "l2rw", "mw_net")),
        pytest.param("cmo", ("parallel=pmap",), marks=pytest.mark.slow),
        pytest.param("mw_net", ("parallel=pmap",), marks=pytest.mark.slow),
        pytest.param("cmo", ("optim.accumulation=2",), marks=pytest.mark.slow),
    ],
)
def test_two_devices_give_what_one_gives(tree, name, more):
    one = trained(folder(tree, name))
    two = trained(folder(tree, name, "devices=2", *more), devices=2)
    for ours, theirs in zip(two, one, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@of_methods("cmo")
def test_a_run_that_was_stopped_in_an_epoch_ends_the_same(tree, tmp_path, name):
    config = folder(tree, name)
    with stopped_at(4):
        cbjax.train(config, tmp_path / "stopped")
    runs = [cbjax.train(config, tmp_path / place) for place in ("stopped", "whole")]
    ours, theirs = (jax.tree.leaves((run.state.params, run.state.objective)) for run in runs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["mixup", "cmo"])
def test_an_image_whose_partner_is_skipped_stays_as_it_is(tmp_path, name):
    write_tree(tmp_path, SPLITS, ending="png", write=write_image)
    config = folder(tmp_path, name, "data.on_bad_image=skip")
    dataset = of_config(config)
    steps = range(5)
    before = batches_at(config, dataset, steps)
    bad = next(position for position in range(22) if dataset.train.labels[position] == 2)
    with open(dataset.train.images.name(bad), "wb") as file:
        file.write(b"no image")
    batches = Batches(22, 8, SEED)
    order = samplers.make_order("oversample", dataset.train.labels, SEED + 2)
    partners = Partners(batches, SEED) if name == "mixup" else Batches(22, 8, SEED, order=order)
    alone = 0
    for devices in (1, 2):
        for step, old, batch in zip(steps, before, batches_at(config, dataset, steps, devices), strict=True):
            there, its = batches.indices(step) != bad, partners.indices(step) != bad
            alone += np.sum(there & ~its)
            np.testing.assert_array_equal(batch["mask"], there)
            assert batch["image"].reshape(8, -1).any(axis=1).all()
            for key in ("image", "label"):
                found = batch["partner"][key]
                np.testing.assert_array_equal(found[its], old["partner"][key][its])
                np.testing.assert_array_equal(found[~its], batch[key][~its])
    assert alone >= 2


def test_skipped_meta_images_are_masked_and_not_black(tmp_path):
    write_tree(tmp_path, SPLITS, ending="png", write=write_image)
    config = folder(tmp_path, "l2rw", "data.on_bad_image=skip")
    dataset = of_config(config)
    with open(dataset.meta.images.name(4), "wb") as file:
        file.write(b"no image")
    (batch,) = batches_at(config, dataset, (1,), 2)
    assert batch["meta"]["mask"].sum() == 5 and batch["meta"]["image"].reshape(6, -1).any(axis=1).all()
