"""Table 3 of Cui et al. 2019: iNaturalist 2017, 2018 and ILSVRC 2012, top-1 error of softmax and CB-focal by network.

Command: cbjax sweep --config=cb_table3 --workdir=DIR
    One run a machine: --shard=1/27 and so on; the runs: --dry-run.
Time: 27 runs of 38,454 to 112,603 steps of 1,024 images, 90 epochs of each set: 1.86e9 images and 1.15e20 FLOP in all,
    by --dry-run. One H100 at a third of its 989 TFLOP/s would compute for 97 hours; the 8 chips of a v5e slice, each at
    a third of its 197, for 61. Not measured.
Data: ILSVRC 2012, iNaturalist 2017 and 2018 by TFDS; `cbjax datasets` says whether they are ready.
Source: table 3; the recipes are in `imagenet` and `inaturalist`. Top-5 errors are in each run's results.
Expected top-1 error %: the paper's, below; the report prints it next to the measured one.
"""

from cbjax.variants import Sweep, Table, Variant

SETS = {"iNat 2017": "inaturalist:2017_", "iNat 2018": "inaturalist:2018_", "ILSVRC 2012": "imagenet:"}
METHODS = {"softmax 224": "softmax", "CB-focal 224": "cb_focal", "CB-focal 320": "cb_focal_320"}
PAPER = {
    ("softmax 224", "ResNet-50"): (45.38, 42.86, 23.92),
    ("softmax 224", "ResNet-101"): (42.57, 39.47, 22.65),
    ("softmax 224", "ResNet-152"): (41.42, 38.61, 21.68),
    ("CB-focal 224", "ResNet-50"): (41.92, 38.88, 22.71),
    ("CB-focal 224", "ResNet-101"): (39.06, 36.12, 21.57),
    ("CB-focal 224", "ResNet-152"): (38.06, 35.21, 20.87),
    ("CB-focal 320", "ResNet-50"): (38.16, 35.84, 21.99),
    ("CB-focal 320", "ResNet-101"): (34.96, 32.02, 20.25),
    ("CB-focal 320", "ResNet-152"): (33.73, 30.95, 19.72),
}


def get_sweep():
    """Returns every row of the table on each set, one seed."""
    runs = [
        Variant(
            {"set": name, "method": method, "network": network},
            {"config": f"{config}{network.lower().replace('-', '')}_{METHODS[method]}"},
        )
        for name, config in SETS.items()
        for method, network in PAPER
    ]
    table = Table(
        title="CB table 3: large sets",
        rows=("method", "network"),
        columns="set",
        metric="error",
        paper={row: {name: (e, None) for name, e in zip(SETS, errors, strict=True)} for row, errors in PAPER.items()},
    )
    return Sweep("imagenet:resnet50_softmax", runs, table)
