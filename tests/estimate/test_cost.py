"""What a sweep takes: steps and images as in training, arithmetic as counted by hand."""

import math

import pytest

from cbjax import config as configs
from cbjax.cli import main
from cbjax.config import ConfigError
from cbjax.estimate import cost
from tests import own_nets

# Output side, input and output channels of ResNet-32's 3x3 convolutions, and how many there are of a kind.
CONVOLUTIONS = [(32, 3, 16, 1), (32, 16, 16, 10), (16, 16, 32, 1), (16, 32, 32, 9), (8, 32, 64, 1), (8, 64, 64, 9)]


def test_a_run_of_cifar_is_counted_by_hand():
    (found,) = cost.run_costs([configs.load("cifar_lt:cui")], {})
    steps = math.ceil(200 * 10847 / 128)
    # At an edge one of three taps falls on padding, which is not counted.
    forward = 2 * (sum((3 * side - 2) ** 2 * a * b * number for side, a, b, number in CONVOLUTIONS) + 64 * 100)
    assert (found.steps, found.images) == (steps, 128 * steps)
    # Normalisation and activations are some hundredths beside the convolutions.
    assert 1 < found.flops / (3 * forward * 128 * steps) < 1.05


def test_a_network_for_clips_is_counted_by_hand():
    overrides = ["data.name=egtea", "data.root=egtea", "data.frames=10", "data.image_size=112", "model.name=resnet3d18"]
    plain = ["data.longtail=natural", "data.imbalance=1", "data.validation=0", "data.crop_padding=0"]
    config = configs.load(
        "cifar_lt:cui", [*overrides, *plain, "data.normalization=kinetics", "batch_size=32", "num_epochs=100"]
    )
    (found,) = cost.run_costs([config], {})
    # Frames, side and channels of each stage; its 3x3x3 convolutions, the first perhaps of fewer channels.
    stages = [(5, 28, 64, 4, 64), (3, 14, 128, 4, 64), (2, 7, 256, 4, 128), (1, 4, 512, 4, 256)]
    forward = 10 * 56**2 * 7**3 * 3 * 64
    for frames, side, width, number, before in stages:
        forward += frames * side**2 * 27 * width * (width * (number - 1) + before)
    assert found.images == 32 * found.steps == 32 * math.ceil(100 * 6372 / 32)
    # Taps that fall on padding are not counted: at one frame, two thirds of a kernel.
    assert 0.5 < found.flops / (3 * 2 * forward * found.images) < 1


def test_each_method_is_counted_by_its_passes():
    # Forward passes as a unit, of a batch of 128 and of 64 meta images; plain training has 3, the gradient being 2.
    meta = ("data.meta=10", "meta.batch_size=64")
    passes = {
        ("sharpness.name=sam",): 2 * 3,
        ("sharpness.name=imbsam",): 3 * 2 + 2,  # three gradients, two of which share a forward pass
        ("meta.name=l2rw", *meta): 3 + 2 + 3 * 64 / 128,  # a tangent, and a gradient of the meta images
        ("meta.name=mw_net", *meta): 3 + 2 + 2 + 3 * 64 / 128,  # the virtual step's gradient, too
        ("meta.name=l2rw", "sharpness.name=sam", *meta): 2 * (3 + 2 + 3 * 64 / 128),
        ("mix.name=mixup",): 3,
    }
    plain, *found = cost.run_costs([configs.load("cifar_lt:cui", keys) for keys in ((), *passes)], {})
    for one, (keys, number) in zip(found, passes.items(), strict=True):
        assert one.flops / one.steps / (plain.flops / plain.steps) == pytest.approx(number / 3), keys
    # The largest class has 490 images for training when 10 of 500 are meta images.
    images = sum(int(490 * 100 ** (-place / 99)) for place in range(100))
    assert [one.steps for one in found] == [
        math.ceil(200 * (images if any("meta" in key for key in keys) else 10847) / 128) for keys in passes
    ]


def test_a_second_stage_is_counted_by_what_trains():
    plain = configs.load("cifar_lt:cui")
    stages = {name: plain.copy_and_resolve_references() for name in ("crt", "lws", "tau", "ncm")}
    for name, config in stages.items():
        config.stage.name, config.stage.source = name, "runs/first"
    first, *trained, tau, ncm = cost.run_costs([plain, *stages.values()], {})
    head = 2 * 64 * 100
    for one in trained:  # the network forward, and the gradient of the head's kernel
        assert one.flops == pytest.approx(first.flops / 3 + one.images * head)
    assert tau == ncm == cost.Cost(0, 0, 0.0, 0.0)
    assert cost.describe([tau, ncm]).startswith("2 runs: 0 steps, 0 images, 0 FLOP of training\nthe runs take no step")
    assert "3 runs: " in (text := cost.describe([tau, ncm, first])) and "the time is not known" in text


def test_runs_add_up_and_share_what_is_alike(monkeypatch):
    asked = []
    monkeypatch.setattr(cost, "_features", lambda config, shape, num_classes: asked.append(shape) or (1e9, 10))
    runs = [configs.load("digits_lt", [f"seed={seed}", f"num_epochs={10 * (seed + 1)}"]) for seed in range(2)]
    costs = cost.run_costs(runs, {})
    assert len(asked) == 1 and costs[1].flops == pytest.approx(2 * costs[0].flops, rel=0.05)
    text = cost.describe(costs)
    assert text.startswith(f"2 runs: {costs[0].steps + costs[1].steps:,} steps, ")


def test_hours_are_told_for_large_steps_at_the_rate_of_their_type():
    large = cost.Cost(steps=10, images=10, flops=3.6e18, float32=0.0)
    assert "one H100 3, " in cost.describe([large._replace(flops=3600 * 989e12)])
    assert "one H100 6, " in cost.describe([large._replace(flops=3600 * 989e12, float32=3600 * 989e12)])
    tpu = 3600 * 8 * 197e12
    assert "8 chips of v5e 3, " in cost.describe([large._replace(flops=tpu, float32=tpu)])
    small = cost.Cost(steps=1000, images=1000, flops=1e12, float32=1e12)
    text = cost.describe([small, large])
    assert "for 1 runs: the steps of the others are too small to say" in text and f"{3.6e18 + 1e12:.3g} FLOP" in text
    assert "not known: steps of 1e+09 FLOP are" in cost.describe([small])


def test_a_dry_run_says_where_unknown_sizes_are_given(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("from cbjax.variants import *\ndef get_sweep():\n    return Sweep('imagenet_lt', seeds(2))\n")
    assert main(["sweep", f"--config={path}", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert told.out.split() == ["seed_0", "seed_1"] and "Sweep(…, sizes={'num_classes': …" in told.err
    assert main(["sweep", f"--config={path}", "--dry-run", "--shard=3/4"]) == 2
    assert "shard 3 of 4 has none of the 2 runs; use I/N with N at most 2" in capsys.readouterr().err


def test_unknown_sizes_are_asked_for():
    listed = configs.load("imagenet_lt")
    with pytest.raises(ConfigError, match="does not say how many classes"):
        cost.run_costs([listed], {})
    sizes = {"num_classes": 1000, "num_images": 115846}
    assert cost.run_costs([listed], sizes)[0].steps == math.ceil(90 * 115846 / 512)


def test_a_mistake_in_a_users_network_is_told_with_its_name():
    config = configs.load("digits_lt", [f"model.name={own_nets.__file__}:few_logits"])
    with pytest.raises(ConfigError, match=r"model\.name='.*own_nets\.py:few_logits': the network must return logits"):
        cost.run_costs([config], {})
