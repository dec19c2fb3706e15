"""Every config of configs/ with each of its recipes, on made-up images: it builds, compiles and takes a step."""

import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbjax import config as configs
from cbjax import models
from cbjax.config import ConfigError
from cbjax.config.parts import IMAGENET_RESNETS
from cbjax.data import prepare
from cbjax.estimate import abstract_data, tpu_programs
from cbjax.parallel import sharding
from cbjax.training import build, loop
from tests import own_nets
from tests.clips import write_egtea
from tests.data.test_sources import write_encoded, write_prepared
from tests.photos import photo, write_list, write_tree

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
CLASSES = ("ant", "bee", "cat")


def recipes(name):
    """Returns the recipes of a file, from the message for an unknown one."""
    try:
        configs.load(f"{name}:?")
    except ConfigError as error:
        return [f"{name}{recipe}" for recipe in re.findall(r"(:\w+)[,;]", str(error))] or [name]


# What only the user can say.
OWN = {"own_images:files": ["data.root=photos"], "own_images:arrays": ["data.file=mine.npz"]}
ALL = [recipe for path in sorted(CONFIGS.glob("*.py")) for recipe in recipes(path.stem)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with every source that the configs name, of a few images each."""
    root = tmp_path_factory.mktemp("images")
    splits = {
        split: [(photo(label, start + number), label) for label in range(3) for number in range(size)]
        for split, start, size in (("train", 0, 8), ("validation", 100, 2))
    }
    for name in ("imagenet2012", "i_naturalist2017", "i_naturalist2018"):
        write_encoded(root, name, splits, CLASSES)
    rows = write_tree(root, {"train": (8, 6, 4), "val": (2, 2, 2), "test": (2, 2, 2)}, CLASSES)
    for split in rows:
        write_list(root / f"ImageNet_LT_{split}.txt", rows[split])
    write_tree(root / "photos", {"": (10, 8, 6)}, CLASSES)
    subjects = {"train": ("P01", "P02", "P03", "P20"), "test": ("P04",)}
    rows = {split: [(subject, verb) for subject in names for verb in (1, 2, 3)] for split, names in subjects.items()}
    write_egtea(root / "egtea", "frames", rows=rows)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (200, 32, 32, 3), np.uint8)
    np.savez(root / "mine.npz", images=pixels[:60, :9], labels=np.arange(60) % 3)
    write_prepared(root, "cifar100", pixels[:120], np.repeat(np.arange(3), 40), CLASSES)
    write_prepared(root, "mnist", pixels[:, :28, :28, :1], np.repeat(np.arange(10), 20), tuple("0123456789"))
    return root


@pytest.fixture(autouse=True)
def quickly_compiled():
    """Other tests check what a program computes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def reduced(recipe, root):
    """Returns a recipe for the images of the folder `root`: a small batch, and the networks of fewest layers."""
    overrides = ["batch_size=8", "devices=2", f"data.data_dir={root}"]
    full = configs.load(recipe, OWN.get(recipe, []))
    if full.data.name == "folder":
        overrides += [f"data.root={root}/photos"]
    if full.data.name == "arrays":
        overrides += [f"data.file={root}/mine.npz"]
    if full.data.name == "cifar100":
        overrides += [
            "model.name=resnet20",
            "data.imbalance=4",
            *(["data.validation=4"] if full.data.validation else []),
        ]
    if full.data.name == "mnist":
        overrides += ["data.majority_ratio=0.75", "data.train_size=16", "data.validation=4", "data.test=4"]
    if full.data.name == "list":
        names = {"train": "train", "validation": "val", "test": "test"}
        overrides += [f"data.{split}_list={root}/ImageNet_LT_{name}.txt" for split, name in names.items()]
    if full.data.name == "egtea":
        overrides += [f"data.root={root}/egtea", "evaluation.groups=majority=0;minority=1,2", "data.frames=2"]
        # A 3D ResNet compiles for a minute; tests/models has them.
        overrides += [f"model.name={own_nets.__file__}:linear", "model.channels=rgb"]
        overrides += ["data.image_size=8", "data.resize=8", "data.threads=2"]
    if full.model.name in IMAGENET_RESNETS:
        overrides += ["model.name=resnet10", "data.image_size=32", "data.resize=36", "data.threads=2"]
    if full.model.batch_norm_size:
        overrides += ["model.batch_norm_size=2"]
    return configs.load(recipe, overrides)


def program(recipe):
    """Returns what makes a recipe's reduced program different from others: all but its arguments and constants."""
    config = reduced(recipe, "images")
    data = None if config.model.name == "resnet10" and config.data.name != "list" else config.data.name
    return data, config.model.to_json(), config.loss.to_json(), config.weights.name


def test_every_recipe_is_found():
    assert len(ALL) == len(set(ALL)) == 10 + 18 + 1 + 2 + 1 + 1 + 2 + 2
    assert {recipe.partition(":")[0] for recipe in ALL} == {path.stem for path in CONFIGS.glob("*.py")}


def with_steps():
    """Yields the first of the recipes that have the same program at reduced size; a network's second one is slow."""
    networks = {"resnet50"}  # the largest
    for recipe in reversed({program(recipe): recipe for recipe in reversed(ALL)}.values()):
        network = reduced(recipe, "images").model.name
        yield pytest.param(recipe, marks=[pytest.mark.slow] if network in networks else [])
        networks.add(network)


@pytest.mark.parametrize("recipe", list(with_steps()))
def test_a_step_at_reduced_size(recipe, images):
    config = reduced(recipe, images)
    dataset = prepare(config.data, config.seed)
    parts = build.build(config, dataset, sharding.make_mesh(1))
    state = parts.init()
    before = jax.device_get(state.params)
    state, metrics = parts.advance(state, 0, 1)
    metrics = {key: np.atleast_1d(values)[0] for key, values in loop.fetch(metrics).items()}
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0 and metrics["count"] == 8
    changed = jax.tree.map(lambda old, new: bool(np.any(old != np.asarray(new))), before, jax.device_get(state.params))
    # With a warm-up from zero, this first step changes nothing.
    assert any(jax.tree.leaves(changed)) == (float(parts.schedule(0)) > 0)
    assert parts.has_validation == (config.weights.name == "difficulty" or config.data.validation > 0)
    found = parts.evaluate("test")(state)
    assert len(found.outputs) == len(dataset.test) and np.isfinite(list(found.metrics.values())).all()


def of_each_network():
    """Yields the last of the recipes with the same network: it has the most classes and the largest input."""
    deep = ("resnet101", "resnet152", "resnext3d101")
    for name, recipe in {configs.load(recipe).model.name: recipe for recipe in ALL if recipe not in OWN}.items():
        yield pytest.param(recipe, marks=[pytest.mark.slow] if name in deep else [])


@pytest.mark.parametrize("recipe", list(of_each_network()))
def test_a_step_at_full_size_keeps_the_shapes_of_its_state(recipe):
    config = configs.load(recipe)
    known = {"num_classes": 1000, "num_images": 115_846} if config.data.name == "list" else {}
    data = abstract_data.describe(config, **known)
    lower, state = tpu_programs.train_program(config, data, sharding.make_mesh(1))
    after, metrics = lower().out_info
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert state.class_weights.shape == data.counts.shape
    # For networks without convolutions a dispatch is an epoch here too.
    steps = math.ceil(data.counts.sum() / config.batch_size)
    assert metrics["loss"].shape == ((steps,) if config.model.name in models.OF_MATRIX_PRODUCTS else ())
