"""Table 5 of Sinha et al. 2020: ImageNet-LT with ResNet-10, top-1 accuracy of focal loss and CDB.

Command: cbjax sweep --config=cdb_table5 --workdir=DIR --config.data.root=IMAGENET
        --config.data.train_list=ImageNet_LT_train.txt --config.data.validation_list=ImageNet_LT_val.txt
        --config.data.test_list=ImageNet_LT_test.txt
Time: 4 runs a seed, 3 seeds; a run has 20,364 steps of 512 images and 5.3e16 FLOP without those on padding, by
    --dry-run. One H100 at a third of its 494 TFLOP/s for float32 values would compute for 5 minutes, so the time goes
    into reading 10.4 million images, at 890 a second and core. Not measured.
Data: as in the config `imagenet_lt`.
Source: table 5; the recipe is the config `imagenet_lt`. OLTR and joint training, alone and with CDB-CE, and EQL have
    only the paper's figures.
Expected top-1 accuracy %: the paper's, below; the report prints it next to the measured one.
"""

from cbjax.variants import Sweep, Table, choices, product, seeds

METHODS = {
    "CE": {"weights.name": "uniform"},
    "focal": {"weights.name": "uniform", "loss.name": "focal"},
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


def get_sweep():
    """Returns each method with 3 seeds."""
    table = Table(
        title="CDB table 5: ImageNet-LT, ResNet-10",
        rows=("method",),
        columns="set",
        paper={(method,): {"ImageNet-LT": (accuracy, None)} for method, accuracy in PAPER.items()},
    )
    runs = product(choices("set", {"ImageNet-LT": {}}), choices("method", METHODS), seeds(3))
    return Sweep("imagenet_lt", runs, table, sizes={"num_classes": 1000, "num_images": 115846})
