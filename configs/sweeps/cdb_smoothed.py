"""Compares CDB with smoothed CDB, which averages the accuracies over epochs so that class weights do not swing.

Command: cbjax sweep --config=cdb_smoothed:digits --workdir=runs/smoothed_digits
         cbjax sweep --config=cdb_smoothed:mnist --workdir=runs/smoothed_mnist
         cbjax sweep --config=cdb_smoothed:binary --workdir=runs/smoothed_binary
         cbjax sweep --config=cdb_smoothed:binary_whole --workdir=runs/smoothed_binary_whole  (4,000 epochs)
Time: on two CPU cores digits takes 3 minutes and mnist a quarter of an hour. binary is 6 runs of six minutes on one
    core; its other 6 runs are shared with cdb_table1. binary_whole has the same 12 runs at five times the length.
Data: digits as in digits_lt; mnist has all ten classes, 5,823 images of the most frequent and 29 of the rarest
    (imbalance 200); binary is the paper's MNIST 4 against 9 at 0.995, a fifth of its schedule, and
    binary_whole its whole schedule.
Source: CDB is from Sinha et al. 2020; smoothing is ours. The share of 0.8 was chosen on images that are used neither
    for training nor for the test (docs/cdb_swings.md).
Expected accuracy: results/README.md.
"""

from cbjax.variants import Sweep, Table, Variant, choices, product, seeds, values

CDB = {"weights.name": "difficulty"}
SMOOTHED = {**CDB, "difficulty.smoothing": 0.8}
METHODS = {
    "CE": {},
    "CDB": CDB,
    "CDB, smoothed": SMOOTHED,
    "CB": {"weights.name": "class_balanced"},
    "CDB tau 1": {**CDB, "difficulty.tau": 1.0},
    "CDB tau 1, smoothed": {**SMOOTHED, "difficulty.tau": 1.0},
}
BINARY_EPOCHS = {"binary": 800, "binary_whole": 4000}
MNIST = {
    "num_epochs": 20,
    "batch_size": 128,
    "data.name": "mnist",
    "data.imbalance": 200.0,
    "data.validation": 100,
    "data.test": 0,
    "data.normalization": "standardize",
    "model.name": "lenet5",
    "model.initialization": "glorot",
    "optim.schedule": "cosine",
    "log.tensorboard": False,
}


def get_sweep(recipe="digits"):
    """Returns every method on one data set: "digits", "mnist" (ten classes), or 4 against 9 of it ("binary…")."""
    if recipe == "digits":
        return Sweep("digits_lt", product(choices("method", METHODS), seeds(5)))
    if recipe == "mnist":
        return Sweep("digits_lt", product([Variant({}, MNIST)], choices("method", METHODS), seeds(5)))
    if recipe in BINARY_EPOCHS:
        return _binary(BINARY_EPOCHS[recipe])
    raise ValueError(f"the recipes are digits, mnist, {', '.join(BINARY_EPOCHS)}; got {recipe}")


def _binary(num_epochs):
    """The paper's form and the smoothed one by both means, in the setting of the paper's table 1."""
    shared = [Variant({}, {"num_epochs": num_epochs, "log.tensorboard": False, "difficulty.floor": 0.0})]
    methods = choices("method", {"CDB-CE dynamic tau": CDB, "CDB, smoothed": SMOOTHED})
    means = values("setting", "loss.mean", ("batch", "weight_sum"), "mean {}")
    ratios = values("ratio", "data.majority_ratio", (0.995,))
    table = Table(
        title=f"MNIST 4 against 9 by the share of the majority, {num_epochs} epochs",
        rows=("method", "setting"),
        columns="ratio",
        metric="error",
    )
    return Sweep("mnist_binary", product(shared, ratios, means, methods, seeds(3)), table)
