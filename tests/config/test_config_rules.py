"""Tests of which configuration values go together."""

import pytest
from hypothesis import given, strategies

from cbjax import config
from cbjax.config import ConfigError, methods, rules, schema

# A tree of images for a config of CIFAR.
FOLDER = ["data.name=folder", "data.root=images", "data.validation=0", "data.crop_padding=0"]
CLIPS = [*FOLDER, "data.longtail=natural", "data.imbalance=1", "weights.name=uniform", "data.frames=10"]
CLIPS += ["data.normalization=kinetics", "model.name=resnext3d101"]

# Overrides of a file that do not go together: (file, overrides, key, rule, value).
WRONG_COMBINATIONS = [
    ("digits_lt", ["data.name=none"], "data.name", "must be set: one of digits", "None"),
    ("digits_lt", ["optim.warmup_epochs=5"], "optim.warmup_epochs", "at most one of", "optim.warmup_epochs=5.0"),
    ("digits_lt", ["optim.warmup=0.8"], "optim.warmup", "must end by the first of optim.decay_at, 0.75", "got 0.8"),
    (
        "digits_lt",
        ["optim.warmup=0", "optim.warmup_epochs=100", "optim.schedule=cosine"],
        "optim.warmup_epochs",
        "must end by the end of training, 1.0 of num_epochs=100",
        "got 100.0",
    ),
    ("digits_lt", ["optim.warmup_from=0.1"], "optim.warmup_from", "at most optim.learning_rate, 0.02", "got 0.1"),
    ("mnist_binary", ["optim.warmup_from=1e-4"], "optim.warmup_from", "without a warm-up", "got 0.0001"),
    ("digits_lt", ["optim.nesterov=true", "optim.momentum=0"], "optim.nesterov", "when optim.momentum is 0", "True"),
    ("digits_lt", ["optim.schedule=constant", "optim.decay_factor=0.5"], "optim.decay_factor", "is step", "got 0.5"),
    ("cifar_lt:cui", ["weights.name=difficulty"], "data.validation", "measured on held-out images", "got 0"),
    ("digits_lt", ["weights.name=difficulty", "data.validation=0"], "data.validation", "must be above 0", "got 0"),
    ("digits_lt", ["data.test=0"], "data.test", "brings no test images", "got 0"),
    ("digits_lt", ["data.longtail=natural"], "data.imbalance", "no effect when data.longtail is natural", "got 20.0"),
    ("digits_lt", ["data.counts=5,4"], "data.counts", "unless data.longtail is counts", "got (5, 4)"),
    ("digits_lt", ["data.longtail=counts", "data.imbalance=1"], "data.counts", "each of the 10 classes", "got 0 of"),
    (
        "digits_lt",
        ["data.longtail=counts", "data.imbalance=1", "data.counts=9,8,7"],
        "data.counts",
        "each of the 10 classes",
        "got 3 of",
    ),
    (
        "digits_lt",
        [
            "data.longtail=counts",
            "data.imbalance=1",
            "data.counts=9,0",
            "data.classes=1,2",
            "weights.name=class_balanced",
        ],
        "data.counts",
        "must be above 0 for class_balanced weights",
        "got 0 for class 1",
    ),
    ("digits_lt", ["data.train_size=100"], "data.train_size", "unless data.longtail is majority", "got 100"),
    ("mnist_binary", ["data.majority_ratio=none"], "data.majority_ratio", "must be set", "None"),
    ("mnist_binary", ["data.classes=()"], "data.classes", "must be two", "got 10 classes"),
    ("mnist_binary", ["data.classes=9,4,1"], "data.classes", "must be two", "got 3 classes"),
    ("mnist_binary", ["data.classes=9,9"], "data.classes", "at least two different classes", "got (9, 9)"),
    ("mnist_binary", ["data.classes=9,10"], "data.classes", "must be below 10", "got 10"),
    ("digits_lt", ["data.file=mine.npz"], "data.file", "unless data.name is arrays", "got mine.npz"),
    ("digits_lt", ["model.name=lenet5"], "model.name", "a network for 8x8 images when data.name is digits", "lenet5"),
    ("cifar_lt:cdb", ["model.name=digits_cnn"], "model.name", "(linear, resnet20", "got digits_cnn, which needs 8x8"),
    ("digits_lt", ["model.shortcut=projection"], "model.shortcut", "unless model.name is resnet20", "got projection"),
    ("digits_lt", ["model.batch_norm_size=all"], "model.batch_norm_size", "no effect", "got all"),
    ("cifar_lt:cui", ["model.name=resnet18", "model.shortcut=projection"], "model.shortcut", "resnet110", "projection"),
    ("cifar_lt:cui", ["model.dtype=bfloat16"], "model.dtype", "unless model.name is resnet10 or", "got bfloat16"),
    ("cifar_lt:cui", ["model.pretrained=x.npz"], "model.pretrained", "no effect when model.name is resnet32", "x.npz"),
    ("cifar_lt:cui", ["model.channels=bgr"], "model.channels", "unless model.name is r3d18 or", "got bgr"),
    (
        "cifar_lt:cdb",
        [*CLIPS, "data.frames=0"],
        "model.name",
        "a network for images when data.frames is 0",
        "resnext3d101",
    ),
    (
        "cifar_lt:cdb",
        [*CLIPS, "model.shortcut=projection"],
        "model.shortcut",
        "unless model.name is resnet20",
        "projection",
    ),
    ("cifar_lt:cui", ["loss.label_smoothing=0.1"], "loss.label_smoothing", "unless loss.name is softmax", "got 0.1"),
    ("cifar_lt:cui", ["optim.accumulation=3"], "optim.accumulation", "the 128 images that each device gets", "got 3"),
    (
        "cifar_lt:cui",
        ["devices=4", "optim.accumulation=2", "model.batch_norm_size=32"],
        "model.batch_norm_size",
        "the 32 images that each device gets from batch_size=128 in each of 2 parts, 16",
        "got 32",
    ),
    ("mnist_binary", ["optim.warmup_from=base"], "optim.warmup_from", "without a warm-up", "got base"),
    (
        "digits_lt",
        ["optim.reference_batch_size=256", "optim.warmup_from=0.01"],
        "optim.warmup_from",
        "at most optim.learning_rate, 0.005 for this batch",
        "got 0.01",
    ),
    ("digits_lt", ["loss.gamma=2"], "loss.gamma", "unless loss.name is focal", "got 2.0"),
    ("digits_lt", ["weights.beta=0.9"], "weights.beta", "unless weights.name is class_balanced", "got 0.9"),
    ("digits_lt", ["weights.start=0.8"], "weights.start", "no effect when weights.name is uniform", "got 0.8"),
    (
        "digits_lt",
        ["method=ldam_drw", "num_epochs=4"],
        "weights.start",
        "must leave a whole epoch at the end",
        "got 0.8 of 4 epochs: use at least 5 epochs",
    ),
    (
        "digits_lt",
        ["data.sampler=oversample", "data.sampler_start=0.6", "num_epochs=2"],
        "data.sampler_start",
        "must leave a whole epoch at the end",
        "got 0.6 of 2 epochs: use at least 3 epochs",
    ),
    ("cifar_lt:cdb", ["weights.zero_count=ignore"], "weights.zero_count", "when weights.name is difficulty", "ignore"),
    ("cifar_lt:cui", ["difficulty.tau=1"], "difficulty.tau", "unless weights.name is difficulty", "got 1.0"),
    (
        "cifar_lt:cdb",
        [*FOLDER, "data.name=list", "data.root=none"],
        "data.train_list",
        "images when data.name",
        "None",
    ),
    ("cifar_lt:cdb", [*FOLDER, "data.root=none"], "data.root", "train/CLASS/*.jpg when data.name is folder", "None"),
    (
        "cifar_lt:cdb",
        [*CLIPS, "data.root=none"],
        "data.root",
        "CLASS/*.mp4 or train/CLASS/*.mp4 when data.name is folder",
        "None",
    ),
    (
        "digits_lt",
        ["data.padding_mode=reflect"],
        "data.padding_mode",
        "no effect when data.crop_padding is 0",
        "reflect",
    ),
    ("digits_lt", ["method=ldam_drw", "model.final_bias=prior"], "model.final_bias", "whose head has no bias", "prior"),
    ("cifar_lt:cdb", ["data.root=x"], "data.root", "unless data.name is list or csv or folder", "got x"),
    ("digits_lt", ["data.test_list=x"], "data.test_list", "unless data.name is list or csv", "got x"),
    ("digits_lt", ["data.color_jitter=0.4"], "data.color_jitter", "when data.name is digits", "got 0.4"),
    ("digits_lt", ["data.image_size=224", "data.crop_area=0.05"], "data.crop_area", "imagenet2012 or", "got 0.05"),
    ("digits_lt", ["data.on_bad_image=skip"], "data.on_bad_image", "has no effect when data.name is digits", "skip"),
    ("digits_lt", ["data.images_per_class=2"], "data.images_per_class", "unless data.sampler is class_aware", "got 2"),
    (
        "cifar_lt:cdb",
        [*FOLDER, "data.normalization=standardize"],
        "data.normalization",
        "whose images are read as they are needed",
        "got standardize: try data.normalization=imagenet",
    ),
    ("cifar_lt:cdb", [*FOLDER, "data.crop_padding=4"], "data.crop_padding", "are cropped by data.crop_area", "got 4"),
    ("cifar_lt:cdb", [*FOLDER, "data.resize=200"], "data.resize", "at least data.image_size, 224", "got 200"),
    ("cifar_lt:cdb", [*FOLDER, "steps_per_dispatch=9"], "steps_per_dispatch", "must be 1 or none", "got 9"),
    ("cifar_lt:cdb", [*FOLDER, "model.name=lenet5"], "model.name", "a network for 224x224 images", "needs 28x28"),
    (
        "digits_lt",
        ["loss.name=vs", "evaluation.tau=0.5"],
        "evaluation.tau",
        "must be 0 when loss.name is vs and loss.tau is 1.0: training has balanced the answers already",
        "got 0.5",
    ),
    ("digits_lt", ["devices=3"], "batch_size", "a multiple of the number of devices, 3", "got 64: use 63 or 66"),
    ("digits_lt", ["devices=4", "evaluation.batch_size=50"], "evaluation.batch_size", "of devices, 4", "got 50"),
]

GOOD = [
    ("digits_lt", ["loss.name=logit_adjusted", "loss.tau=0", "evaluation.tau=1"], {"loss.tau": 0.0}),
    ("cifar_lt:cdb", FOLDER, {"data.name": "folder", "data.image_size": 224, "data.validation": 0}),
    ("cifar_lt:cdb", [*FOLDER, "data.name=tfds:mine", "data.root=none"], {"data.name": "tfds:mine"}),
    (
        "cifar_lt:cdb",
        [*FOLDER, "data.image_size=320", "data.resize=352", "data.crop_area=0.05", "data.workers=4"],
        {"data.resize": 352, "data.crop_area": 0.05, "data.workers": 4},
    ),
    ("digits_lt", ["data.sampler=class_aware", "data.images_per_class=2"], {"data.images_per_class": 2}),
    ("digits_lt", ["data.longtail=natural", "data.imbalance=1"], {"data.imbalance": 1.0}),
    ("digits_lt", ["seed=7", "num_epochs=1", "devices=none", "data.seed=NULL"], {"seed": 7, "devices": None}),
    ("digits_lt", ["deterministic=True", "log.tensorboard=false"], {"deterministic": True, "log.tensorboard": False}),
    ("digits_lt", ["weights.name=difficulty", "difficulty.tau=1.5"], {"difficulty.tau": 1.5}),
    ("cifar_lt:cdb", ["difficulty.tau=dynamic"], {"difficulty.tau": "dynamic"}),
    ("digits_lt", ["optim.decay_at=(0.5, 0.9)"], {"optim.decay_at": (0.5, 0.9)}),
    ("digits_lt", ["optim.decay_at=0.5,0.9"], {"optim.decay_at": (0.5, 0.9)}),
    ("digits_lt", ["optim.decay_at=[0.5,]"], {"optim.decay_at": (0.5,)}),
    ("digits_lt", ["data.validation=0.1", "data.test=0.25"], {"data.validation": 0.1, "data.test": 0.25}),
    ("digits_lt", ["data.validation=15"], {"data.validation": 15}),
    ("digits_lt", ["optim.learning_rate=1e-2"], {"optim.learning_rate": 0.01}),
    ("digits_lt", ["optim.warmup=0", "optim.warmup_epochs=1.5"], {"optim.warmup_epochs": 1.5}),
    ("digits_lt", ["optim.warmup_steps=0"], {"optim.warmup": 0.05}),
    ("mnist_binary", ["data.classes='9','4'"], {"data.classes": ("9", "4")}),
    ("mnist_binary", ["data.classes=3,8"], {"data.classes": (3, 8)}),
    ("mnist_binary", ["data.classes=03,1_0"], {"data.classes": ("03", "1_0")}),
    ("digits_lt", ["evaluation.groups=rare=01,02,3"], {"evaluation.groups": (("rare", ("01", "02", 3)),)}),
    ("mnist_binary", ["data.train_size=none"], {"data.train_size": None}),
    ("mnist_binary", ["data.data_dir=~/a=b"], {"data.data_dir": "~/a=b"}),
    ("mnist_binary", ["model.name=resnet20", "model.shortcut=projection"], {"model.shortcut": "projection"}),
    # A recipe's beta and gamma stay, unused: only a key that is itself given must have an effect.
    ("cifar_lt:cui", ["loss.name=softmax", "weights.name=uniform"], {"weights.beta": 0.9, "loss.gamma": 1.0}),
    ("cifar_lt:cui", ["data.name=cifar20", "data.imbalance=1"], {"data.name": "cifar20"}),
    ("cifar_lt:cdb", ["weights.name=class_balanced", "weights.start=0.8"], {"weights.start": 0.8}),
    ("cifar_lt:cdb", ["devices=8", "evaluation.batch_size=1000"], {"batch_size": 128}),
    ("digits_lt", ["data.imbalance=50", "data.imbalance=10"], {"data.imbalance": 10.0}),
    ("cifar_lt:cui", ["optim.warmup_from=base"], {"optim.warmup_from": "base"}),
    ("cifar_lt:cui", ["model.batch_norm_size=32", "devices=4"], {"model.batch_norm_size": 32}),
    ("cifar_lt:cdb", ["model.batch_norm_size=all", "optim.accumulation=4"], {"model.batch_norm_size": "all"}),
    ("cifar_lt:cdb", ["model.name=resnet10", "model.remat=true"], {"model.remat": True}),
    ("cifar_lt:cdb", [*CLIPS, "model.dtype=bfloat16", "model.remat=true"], {"model.name": "resnext3d101"}),
    ("cifar_lt:cdb", [*CLIPS, "model.batch_norm_size=16", "model.channels=bgr"], {"model.channels": "bgr"}),
    ("cifar_lt:cdb", [*CLIPS, "model.pretrained=k.npz", "model.zero_last_scale=false"], {"model.pretrained": "k.npz"}),
]


def value_of(tree, key):
    for part in key.split("."):
        tree = tree[part]
    return tree


def refusal(*args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        config.load(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(("file", "overrides", "key", "rule", "value"), WRONG_COMBINATIONS)
def test_a_wrong_combination_is_refused_with_key_rule_and_value(file, overrides, key, rule, value):
    message = refusal(file, overrides)
    assert key in message
    assert rule in message
    assert value in message
    assert "\n" not in message


@pytest.mark.parametrize(("file", "overrides", "expected"), GOOD)
def test_good_overrides_are_applied_with_their_types(file, overrides, expected):
    loaded = config.load(file, overrides)
    for key, value in expected.items():
        assert value_of(loaded, key) == value
        assert type(value_of(loaded, key)) is type(value)
    config.check(loaded)


def test_arrays_may_lack_a_file_until_training():
    loaded = config.load("own_images:arrays", ["batch_size=8"])
    assert loaded.data.file is None
    assert config.change(loaded, ["num_epochs=2"]).data.file is None
    with pytest.raises(ConfigError, match=r"^data.file must be the .npz file to read when .* is arrays; got None$"):
        config.check(loaded)


def test_rules_speak_of_keys_that_exist():
    keys = {key for key, on, _ in rules.EFFECTS} | {on for _, on, _ in rules.EFFECTS}
    for key in (*keys, *rules.STATEMENTS, *rules.WARMUPS, *config.HOW_KEYS, *schema.REQUIRED):
        assert key in schema.KEYS
    for _, on, where in rules.EFFECTS:
        assert set(where) <= {*schema.KEYS[on].kind.names, *rules.OWN, *rules.SOME}


def test_the_shares_of_the_devices_at_hand_are_checked():
    loaded = config.load("cifar_lt:cui", ["optim.accumulation=4", "model.batch_norm_size=8"])
    for num_devices in (1, 2, 4):
        config.check_shares(loaded, num_devices)
    with pytest.raises(
        ConfigError, match=r"^model.batch_norm_size must divide the 16 images .* in each of 4 parts, 4; got 8$"
    ):
        config.check_shares(loaded, 8)
    with pytest.raises(
        ConfigError, match=r"optim.accumulation must divide the 2 images .* from batch_size=128; got 4$"
    ):
        config.check_shares(loaded, 64)
    with pytest.raises(ConfigError, match=r"^batch_size must be a multiple of the number of devices, 3; got 128"):
        config.check_shares(loaded, 3)


@given(batch_size=strategies.integers(1, 4096), num_devices=strategies.integers(1, 64))
def test_devices_must_divide_the_batch(batch_size, num_devices):
    if batch_size % num_devices == 0:
        config.check_devices(batch_size, num_devices)
        return
    with pytest.raises(ConfigError) as caught:
        config.check_devices(batch_size, num_devices)
    advice = str(caught.value).split(": use ")[1]
    *sizes, fewer = advice.replace(", or devices=", " or ").split(" or ")
    assert all(int(size) % num_devices == 0 and abs(int(size) - batch_size) < num_devices for size in sizes)
    assert 0 < int(fewer) < num_devices
    assert batch_size % int(fewer) == 0


@pytest.mark.parametrize(
    ("overrides", "by"),
    [
        (["weights.name=inverse_frequency", "data.sampler=class_aware"], "data.sampler=class_aware and weights.name"),
        (["loss.name=vs", "data.synthesis=smote"], "data.synthesis=smote and loss.name=vs"),
        (["weights.name=class_balanced", "evaluation.tau=1"], "evaluation.tau=1.0 and weights.name=class_balanced"),
    ],
)
def test_classes_that_are_balanced_twice_are_allowed_and_said(overrides, by):
    (line,) = config.cautions(config.load("digits_lt", overrides))
    assert f"2 times, by {by}" in line


@pytest.mark.parametrize(
    ("keys", "counts", "said"),
    [
        # lambda = 0.5 / 4, so a class is rare below an eighth of all images, as in the paper's T(f) = [f < lambda].
        ([], [50, 50, 50, 22], "eql is sigmoid cross entropy here, because no class is rare: each has at least 22"),
        ([], [50, 50, 50, 24], "fewer than 21.75, loss.rare_below=0.5 times the mean"),
        ([], [50, 50, 50, 20], ""),
        ([], (), ""),
        (["loss.mask_chance=0"], (), "is sigmoid cross entropy when loss.mask_chance is 0"),
        (["loss.name=softmax_eql", "loss.rare_below=0"], (), "is softmax cross entropy when loss.rare_below is 0"),
    ],
)
def test_an_equalization_loss_without_a_rare_class_is_said(keys, counts, said):
    found = config.cautions(config.load("digits_lt", ["loss.name=eql", *keys]), counts)
    assert len(found) == bool(said) and said in "".join(found)


@pytest.mark.parametrize("method", methods.METHODS)
def test_no_method_balances_classes_twice_by_itself(method):
    assert config.cautions(config.load("digits_lt", [f"method={method}"])) == []
