"""OLTR against its formulas, image by image in float64: attention, meta-embedding, and the loss with its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cbjax import models
from cbjax.losses import softmax_cross_entropy
from cbjax.models import meta_embedding
from cbjax.objectives import oltr
from cbjax.parallel import sharding
from cbjax.training.step import make_train_step
from cbjax.types import Model, Settings, TrainState

DEPTH, CLASSES = 3, 4
embed = jax.jit(meta_embedding.meta_embedding_logits, static_argnames="form")
attend = jax.jit(meta_embedding.modulated_attention)
NUMBERS = {"oltr.feature_weight": 0.3, "oltr.repulsion": 0.2, "oltr.margin": 10.0}


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def parameters(seed=0):
    return {
        "direct": draw(seed, 5, DEPTH),
        "hallucinator": {"kernel": draw(seed + 1, DEPTH, CLASSES), "bias": draw(seed + 2, CLASSES)},
        "selector": {"kernel": draw(seed + 3, DEPTH, DEPTH), "bias": draw(seed + 4, DEPTH)},
        "head": {"kernel": draw(seed + 5, DEPTH, CLASSES)},
        "memory": draw(seed + 6, CLASSES, DEPTH),
    }


def linear_model(form="authors_code"):
    """A network whose direct features are linear in the images [B, 5]."""

    def features(params, batch_stats, images, train):
        return images @ params["direct"], batch_stats

    def head(params, outputs):
        return meta_embedding.meta_embedding_logits(params, outputs, form)

    def apply(params, batch_stats, images, train, key=None):
        return head(params, features(params, batch_stats, images, train)[0]), batch_stats

    return Model(None, features, head, apply)


def softmax(values):
    values = np.exp(values - values.max())
    return values / values.sum()


def logits_oracle(params, v, form):
    """Logits [C] of one direct feature [D]."""
    memory = params["memory"]
    o = softmax(v @ params["hallucinator"]["kernel"] + params["hallucinator"]["bias"])
    recalled = sum(o[c] * memory[c] for c in range(CLASSES))
    e = np.tanh(v @ params["selector"]["kernel"] + params["selector"]["bias"])
    reach = min(np.linalg.norm(v - memory[c]) for c in range(CLASSES))
    z = {"authors_code": 10.0, "paper": 1.0}[form] / reach * (v + e * recalled)
    n = np.linalg.norm(z)
    length = n / (1 + n) if form == "authors_code" else n**2 / (1 + n**2)
    kernel = params["head"]["kernel"]
    return np.array([16 * length * z @ kernel[:, c] / n / np.linalg.norm(kernel[:, c]) for c in range(CLASSES)])


def attention_oracle(params, maps):
    """One image [H, W, D], place by place."""
    height, width, depth = maps.shape
    places = maps.reshape(-1, depth)
    theta, phi, g = (places @ params[name]["kernel"] + params[name]["bias"] for name in ("theta", "phi", "g"))
    spatial = softmax(places.reshape(-1) @ params["spatial"]["kernel"] + params["spatial"]["bias"])
    outputs = np.array(places)
    for i in range(height * width):
        weights = softmax(np.array([theta[i] @ phi[j] for j in range(height * width)]))
        mask = sum(weights[j] * g[j] for j in range(height * width)) @ params["mask"]["kernel"]
        outputs[i] += spatial[i] * mask
    return outputs.reshape(maps.shape)


@pytest.mark.parametrize("form", meta_embedding.FORMS)
def test_logits_are_those_of_the_formula(form):
    params, v = parameters(), draw(9, 6, DEPTH)
    found = embed(params, jnp.asarray(v, jnp.float32), form)
    np.testing.assert_allclose(found, [logits_oracle(params, one, form) for one in v], rtol=2e-5, atol=1e-5)


def test_attention_is_that_of_the_formula_and_at_first_nothing_where_its_output_starts_at_zero():
    maps = draw(1, 2, 3, 2, 4)
    params = jax.tree.map(np.float64, meta_embedding.first_attention(jax.random.key(0), (3, 2, 4)))
    found = attend(params, jnp.asarray(maps, jnp.float32))
    np.testing.assert_allclose(found, [attention_oracle(params, one) for one in maps], rtol=1e-5, atol=1e-5)
    assert np.abs(found - maps).max() > 0.01
    params = meta_embedding.first_attention(jax.random.key(0), (3, 2, 4), zero=True)
    maps = jnp.asarray(maps, jnp.float32)
    np.testing.assert_array_equal(attend(params, maps), maps)
    # Places of clips are places as well.
    params = meta_embedding.first_attention(jax.random.key(0), (3, 2, 4))
    clip = meta_embedding.first_attention(jax.random.key(0), (1, 3, 2, 4))
    jax.tree.map(np.testing.assert_array_equal, params, clip)
    np.testing.assert_array_equal(attend(clip, maps[:, None])[:, 0], attend(params, maps))
    with pytest.raises(ValueError, match="was made for 24 activations before the pooling, and got 12"):
        meta_embedding.modulated_attention(params, maps[:, :, :1])


def test_logits_have_their_limits():
    params, v = parameters(), draw(9, 6, DEPTH).astype(np.float32)
    # Far from all centroids an image answers little; on one, with the full scale.
    params["memory"][0] = v[0]
    answers = embed(params, jnp.asarray(v), "paper")
    assert np.isfinite(answers).all() and np.abs(answers[0]).max() > 5
    params["memory"] += 1e4
    params["hallucinator"]["bias"] *= 0
    params["selector"] = {
        "kernel": np.zeros((DEPTH, DEPTH)),
        "bias": np.zeros(DEPTH),
    }  # e = 0: the direct feature alone
    answers = embed(params, jnp.asarray(v), "paper")
    assert np.abs(answers).max() < 1e-4
    total = jax.jit(jax.value_and_grad(lambda v: meta_embedding.meta_embedding_logits(params, v).sum()))
    for extreme in (np.zeros((6, DEPTH)), np.full((6, DEPTH), 1e15), params["memory"][[0, 1, 2, 3, 0, 1]]):
        value, slope = total(np.float32(extreme))
        assert np.isfinite(value) and np.isfinite(slope).all()


def state(params, dtype="float32", **numbers):
    settings = Settings.of(loss={}, method={**NUMBERS, **numbers})
    weights = np.array([0.5, 1.0, 2.0, 0.7])
    cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    opt_state = optax.sgd(1.0).init(cast)
    return TrainState(jnp.int32(0), cast, {}, opt_state, jnp.asarray(weights, dtype), jax.random.key(0), settings)


def loss(logits, labels, class_weights, settings):
    return softmax_cross_entropy(logits, labels, class_weights)


def loss_oracle(params, images, labels, weights, numbers, detached):
    """The loss of a batch; the memory of the embedding is `detached`, so that it has no gradient."""
    v = images @ params["direct"]
    total, near, own = 0.0, 0.0, 0.0
    for one, y in zip(v, labels, strict=True):
        logits = logits_oracle({**params, "memory": detached}, one, "authors_code")
        total += weights[y] * (np.log(np.exp(logits).sum()) - logits[y])
        own += 0.5 * np.sum((one - params["memory"][y]) ** 2)
        near += sum(np.sum((one - params["memory"][c]) ** 2) for c in range(CLASSES) if c != y)
    size = len(labels)
    repel = max(0.0, numbers["oltr.margin"] - near / (size * CLASSES))
    return total / size + numbers["oltr.feature_weight"] * (own / size + numbers["oltr.repulsion"] * repel)


@pytest.mark.parametrize("margin", [0.1, 1e3])
def test_loss_and_gradient_are_those_of_the_authors_code(margin):
    params, images, labels = parameters(), draw(20, 6, 5), np.array([0, 1, 1, 3, 1, 0])
    numbers = {**NUMBERS, "oltr.margin": margin}
    with jax.enable_x64(True):
        now = state(params, "float64", **{"oltr.margin": margin})
        batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}

        def mean(given):
            return jnp.mean(oltr(linear_model(), loss, axis=None).apply(given, now, batch).losses)

        value, grads = jax.jit(jax.value_and_grad(mean))(now.params)
        weights = np.asarray(now.class_weights)
    expected = loss_oracle(params, images, labels, weights, numbers, params["memory"])
    np.testing.assert_allclose(value, expected, rtol=1e-6)  # the numbers of settings are float32
    step = 1e-5
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names, slopes = [key.key for key in path], np.zeros(leaf.shape)
        for place in np.ndindex(leaf.shape):
            ends = []
            for way in (1, -1):
                moved = jax.tree.map(np.array, params)
                part = moved
                for name in names:
                    part = part[name]
                part[place] += way * step
                ends.append(loss_oracle(moved, images, labels, weights, numbers, params["memory"]))
            slopes[place] = (ends[0] - ends[1]) / (2 * step)
        if names == ["memory"]:
            # The attraction's own backward pass: neither times the weight, nor a mean.
            for c in range(CLASSES):
                drawn = (params["memory"][c] - images @ params["direct"])[labels == c].sum(axis=0) / len(labels)
                slopes[c] += drawn * (1 / (1 + np.sum(labels == c)) - numbers["oltr.feature_weight"])
        found = grads
        for name in names:
            found = found[name]
        np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("kind", "count"), [("shard_map", 1), ("shard_map", 4), ("pmap", 4)])
def test_devices_and_order_change_nothing(kind, count):
    """Counts and the margin are of the whole batch, whose last image is padding; another order gives the same."""
    mesh = sharding.make_mesh(count)
    program = make_train_step(oltr(linear_model(), loss), optax.sgd(0.01))
    program = sharding.data_parallel(program, mesh, split=(None, 0), split_outputs=(None, None), kind=kind)
    params, images = parameters(), draw(20, 8, 5).astype(np.float32)
    labels, mask = np.array([0, 1, 1, 3, 1, 0, 2, 2], np.int32), np.arange(8) < 7
    v = images[:7] @ params["direct"]
    apart = [
        np.sum((one - params["memory"][c]) ** 2) for one, y in zip(v, labels, strict=False) for c in range(4) if c != y
    ]
    for margin in (0.99, 1.01):  # on both sides of the edge
        numbers = {**NUMBERS, "oltr.margin": margin * np.sum(apart) / (7 * CLASSES)}
        expected = loss_oracle(params, images[:7], labels[:7], np.array([0.5, 1, 2, 0.7]), numbers, params["memory"])
        after = []
        for order in (np.arange(8), np.array([7, 3, 1, 0, 5, 6, 4, 2])):
            batch = {"image": images[order], "label": labels[order], "mask": mask[order]}
            now, metrics = program(sharding.replicate(state(params, **numbers), mesh), batch)
            np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
            after.append(np.asarray(now.params["memory"]))
        drawn = np.array(params["memory"])
        for one, y in zip(v, labels, strict=False):
            drawn[y] -= 0.01 / 7 * (params["memory"][y] - one) / (1 + np.sum(labels[:7] == y))
        for memory in after:
            np.testing.assert_allclose(memory, after[0], rtol=1e-5)
            if margin < 1:  # nothing repels
                np.testing.assert_allclose(memory, drawn, rtol=1e-5)


def test_every_network_of_cbjax_hands_out_what_it_pools():
    key = jax.eval_shape(lambda: jax.random.key(0))
    for name, size, maps in (
        ("digits_cnn", 8, (2, 2, 32)),
        ("lenet5", 28, (5, 5, 16)),
        ("linear", 8, (8, 8, 1)),
        ("resnet20", 32, (8, 8, 64)),
        ("resnet10", 64, (2, 2, 512)),
    ):
        model = meta_embedding.with_memory(models.build(name, 5), 5, "paper")
        images = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
        params, stats = jax.eval_shape(model.init, key, images)
        height, width, depth = maps
        assert params["attention"]["spatial"]["kernel"].shape == (height * width * depth, height * width)
        logits, _ = jax.eval_shape(lambda *given: model.apply(*given, train=True), params, stats, images)  # noqa: B023
        assert logits.shape == (2, 5)
    with pytest.raises(ValueError, match="which this network does not hand out"):
        meta_embedding.with_memory(linear_model(), 5)
