"""Table 5 of Sinha et al. 2020: ImageNet-LT with ResNet-10, top-1 accuracy of focal loss, CDB and OLTR.

Command: cbjax sweep --config=cdb_table5 --workdir=DIR --config.data.root=IMAGENET
        --config.data.train_list=ImageNet_LT_train.txt --config.data.validation_list=ImageNet_LT_val.txt
        --config.data.test_list=ImageNet_LT_test.txt
    OLTR, alone and with CDB-CE, with the same keys of the data:
        cbjax sweep --config=cdb_table5:first --workdir=FIRST …
        cbjax sweep --config=cdb_table5:oltr --workdir=OLTR … --config.stage.source=FIRST/first_stage/seed_0
    OLTR's open-set figures, of images below OPEN:
        cbjax eval --workdir=OLTR/ImageNet-LT/OLTR/seed_0 --open=OPEN --open-below=0.1
Time: 5 runs a seed, 3 seeds; a run has 20,364 steps of 512 images and 5.3e16 FLOP without those on padding, by
    --dry-run. One H100 at a third of its 494 TFLOP/s for float32 values would compute for 5 minutes, so the time goes
    into reading 10.4 million images, at 890 a second and core. OLTR's first stage is 30 epochs, its second one 60. Not
    measured.
Data: as in the config `imagenet_lt`.
Source: table 5; the recipe is the config `imagenet_lt`, and for OLTR that of its authors' code, of both stages: batch
    128, rate 0.1, decay 5e-4, the rate x 0.1 after each third; class-aware images in the second stage. CDB takes part
    in the second stage alone, which the paper does not say. EQL has a lambda of 0.0005 (half of the mean) and a gamma
    of 0.9, as the paper gives neither. Joint training, alone and with CDB-CE, has only the paper's figures.
Expected top-1 accuracy %: the paper's, below; the report prints it next to the measured one.
"""

from cbjax.variants import Sweep, Table, Variant, choices, product, seeds

METHODS = {
    "CE": {"weights.name": "uniform"},
    "focal": {"weights.name": "uniform", "loss.name": "focal"},
    "EQL": {"weights.name": "uniform", "loss.name": "eql"},
    "CDB-CE": {},
    "CDB-CE, tau 1": {"difficulty.tau": 1.0},
}
PAPER = {
    "focal": 30.50,
    "OLTR": 35.60,
    "joint training": 34.80,
    "EQL": 36.44,
    "OLTR, CDB-CE": 36.70,
    "joint training, CDB-CE": 37.10,
    "CDB-CE": 38.49,
}
# OLTR's authors' settings.
BOTH_STAGES = {
    "batch_size": 128,
    "loss.mean": "batch",
    "optim.learning_rate": 0.1,
    "optim.weight_decay": 5e-4,
    "optim.schedule": "step",
    "optim.decay_at": (1 / 3, 2 / 3),
    "optim.decay_factor": 0.1,
}
SECOND_STAGE = {
    "num_epochs": 60,
    "stage.name": "oltr",
    "stage.batch_norm": "train",
    "data.sampler": "class_aware",
    "data.images_per_class": 4,
}


def get_sweep(recipe=""):
    """Returns each method with 3 seeds; "first": OLTR's first stage; "oltr": its second, from one first stage."""
    table = Table(
        title="CDB table 5: ImageNet-LT, ResNet-10",
        rows=("method",),
        columns="set",
        paper={(method,): {"ImageNet-LT": (accuracy, None)} for method, accuracy in PAPER.items()},
    )
    sizes, images = {"num_classes": 1000, "num_images": 115846}, choices("set", {"ImageNet-LT": {}})
    if not recipe:
        return Sweep("imagenet_lt", product(images, choices("method", METHODS), seeds(3)), table, sizes)
    if recipe == "first":
        first = {"num_epochs": 30, "weights.name": "uniform", **BOTH_STAGES}
        return Sweep("imagenet_lt", product(choices("method", {"first stage": first}), seeds(1)), sizes=sizes)
    if recipe == "oltr":
        weights = choices("method", {"OLTR": {"weights.name": "uniform"}, "OLTR, CDB-CE": {}})
        runs = product(images, [Variant({}, {**BOTH_STAGES, **SECOND_STAGE})], weights, seeds(3))
        return Sweep("imagenet_lt", runs, table, sizes)
    raise ValueError(f"the recipes are first, oltr, or none; got {recipe}")
