"""CDB beside CDB, smoothed, which averages the accuracies over epochs so that class weights do not swing.

Command: cbjax sweep --config=cdb_smoothed:digits --workdir=runs/cdb_smoothed_digits
         cbjax sweep --config=cdb_smoothed:mnist --workdir=runs/cdb_smoothed_mnist
         cbjax sweep --config=cdb_smoothed:binary --workdir=runs/cdb_smoothed_binary
"""

from cbjax.variants import Sweep, Table, Variant, choices, product, seeds, values

CB = {"weights.name": "class_balanced"}
CDB = {"weights.name": "difficulty"}
SMOOTHED = {**CDB, "difficulty.smoothing": 0.9}
METHODS = {
    "CE": {},
    "CB": CB,
    "CDB": CDB,
    "CDB tau 1": {**CDB, "difficulty.tau": 1.0},
    "CDB smoothed": SMOOTHED,
    "CDB smoothed, tau 1": {**SMOOTHED, "difficulty.tau": 1.0},
}
MNIST = {
    "num_epochs": 20,
    "batch_size": 128,
    "data.name": "mnist",
    "data.longtail": "exponential",
    "data.imbalance": 200.0,
    "data.validation": 100,
    "data.test": 0,
    "data.normalization": "standardize",
    "model.name": "lenet5",
    "model.initialization": "glorot",
    "optim.learning_rate": 0.02,
    "optim.schedule": "cosine",
    "checkpoint.every_epochs": 1,
    "log.tensorboard": False,
}


def get_sweep(recipe=None):
    """Returns every method on one data set: "digits", "mnist" (ten classes) or "binary" (MNIST 4 against 9)."""
    if recipe == "digits":
        return Sweep("digits_lt", product(choices("method", METHODS), seeds(5)))
    if recipe == "mnist":
        return Sweep("digits_lt", product([Variant({}, MNIST)], seeds(5), choices("method", METHODS)))
    if recipe == "binary":
        return _binary()
    raise ValueError(f"the recipes are digits, mnist, binary; got {recipe}")


def _binary():
    """The short form of the paper's table 1 at its hardest ratio; the paper's form has its rows there."""
    shared = [Variant({}, {"num_epochs": 800, "log.tensorboard": False, "difficulty.floor": 0.0})]
    methods = choices("method", {"CDB-CE dynamic tau": CDB, "CDB smoothed": SMOOTHED})
    means = values("setting", "loss.mean", ("batch", "weight_sum"), "mean {}")
    ratios = values("ratio", "data.majority_ratio", (0.995,))
    table = Table(
        title="MNIST 4 against 9, 25 images of 4 against 4,975 of 9, 800 epochs",
        rows=("method", "setting"),
        columns="ratio",
        metric="error",
    )
    return Sweep("mnist_binary", product(shared, ratios, means, methods, seeds(3)), table)
