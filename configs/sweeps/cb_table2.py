"""Table 2 of Cui et al. 2019: long-tailed CIFAR-10 and -100 with ResNet-32, the test error of each loss, plain and CB.

Command: cbjax sweep --config=cb_table2 --workdir=runs/cb_table2          (plain losses, and CB with the paper's choice)
         cbjax sweep --config=cb_table2:grid --workdir=runs/cb_table2     (CB with each loss and beta as well)
         cbjax sweep --config=cb_table2:cifar20 --workdir=runs/cb_cifar20 (the appendix: the grid on CIFAR-20)
Time: 70 runs of a seed (grid: 260, cifar20: 130), 3 seeds; a run has 14,800 to 78,125 steps of 128 images, 200 epochs.
    On 2 CPU cores about a minute for 85 steps; not measured on a GPU yet.
Data: CIFAR-10 and -100 by TFDS; `cbjax datasets` says whether they are ready and how to prepare them.
Source: table 2; the recipe is `cifar_lt:cui`, which holds out no images. The paper's row "class-balanced" is the best
    of the grid on test, column by column. Here its figure stands next to the setting that reached it; nothing is
    chosen. At imbalance 1 this is the setting of sigmoid, since weights are equal. There the rate falls to 0.1 and 0.01
    of itself, as in the authors' script for the whole sets, instead of 0.01 and 0.0001.
Expected error %: the paper's, below; the report prints it next to the measured one.
"""

from cbjax.variants import Sweep, Table, Variant, chain, choices, product, seeds

IMBALANCES = ("200", "100", "50", "20", "10", "1")
PLAIN = {
    "softmax": {"loss.name": "softmax"},
    "sigmoid": {"loss.name": "sigmoid"},
    "focal 0.5": {"loss.name": "focal", "loss.gamma": 0.5},
    "focal 1": {"loss.name": "focal", "loss.gamma": 1.0},
    "focal 2": {"loss.name": "focal", "loss.gamma": 2.0},
}
BETAS = (0.9, 0.99, 0.999, 0.9999)
PAPER = {
    "CIFAR-10": {
        "softmax": (34.32, 29.64, 25.19, 17.77, 13.61, 6.61),
        "sigmoid": (34.51, 29.55, 23.84, 16.40, 12.97, 6.36),
        "focal 0.5": (36.00, 29.77, 23.28, 17.11, 13.19, 6.75),
        "focal 1": (34.71, 29.62, 23.29, 17.24, 13.34, 6.60),
        "focal 2": (35.12, 30.41, 23.48, 16.77, 13.68, 6.61),
    },
    "CIFAR-100": {
        "softmax": (65.16, 61.68, 56.15, 48.86, 44.29, 29.07),
        "sigmoid": (64.39, 61.22, 55.85, 48.57, 44.73, 28.39),
        "focal 0.5": (65.00, 61.31, 55.88, 48.90, 44.30, 28.55),
        "focal 1": (64.38, 61.59, 55.68, 48.05, 44.22, 28.85),
        "focal 2": (65.25, 61.61, 56.30, 48.98, 45.00, 28.52),
    },
}
# Imbalance -> the loss, beta and error of the paper's class-balanced row; at imbalance 1 the weights are equal.
BALANCED = {
    "CIFAR-10": {
        "200": ("softmax", 0.9999, 31.11),
        "100": ("focal 1", 0.9999, 25.43),
        "50": ("focal 2", 0.9999, 20.73),
        "20": ("softmax", 0.9999, 15.64),
        "10": ("sigmoid", 0.9999, 12.51),
    },
    "CIFAR-100": {
        "200": ("focal 1", 0.9, 63.77),
        "100": ("focal 1", 0.9, 60.40),
        "50": ("sigmoid", 0.99, 54.68),
        "20": ("focal 0.5", 0.99, 47.41),
        "10": ("focal 0.5", 0.999, 42.01),
    },
}
NAMES = {"CIFAR-10": "cifar10", "CIFAR-20": "cifar20", "CIFAR-100": "cifar100"}


def get_sweep(recipe=None):
    """Returns the plain losses and CB as the paper chose it; "grid" and "cifar20" have CB with each loss and beta."""
    if recipe not in (None, "grid", "cifar20"):
        raise ValueError(f"the recipes are grid and cifar20; got {recipe}")
    sets = ("CIFAR-20",) if recipe == "cifar20" else ("CIFAR-100", "CIFAR-10")
    runs = []
    for name in sets:
        # The most informative first. A table without the paper's figures has the order of the runs.
        for imbalance in IMBALANCES if recipe == "cifar20" else ("100", "50", "200", "20", "10", "1"):
            keys = {"data.name": NAMES[name], "data.imbalance": float(imbalance)}
            if imbalance == "1":
                keys["optim.decay_factor"] = 0.1
            cell = Variant({"data, imbalance": f"{name} {imbalance}"}, keys)
            runs += product([cell], chain(_plain(), _balanced(name, imbalance, recipe)))
    paper = {}
    for name in PAPER if recipe != "cifar20" else ():
        for loss, errors in PAPER[name].items():
            cells = {f"{name} {imbalance}": (error, None) for imbalance, error in zip(IMBALANCES, errors, strict=True)}
            paper.setdefault((loss, ""), {}).update(cells)
        for imbalance, (loss, beta, error) in BALANCED[name].items():
            paper.setdefault((f"CB {loss}", f"beta {beta}"), {})[f"{name} {imbalance}"] = (error, None)
    table = Table(
        title=f"CB table 2: long-tailed {' and '.join(reversed(sets))} by imbalance",
        rows=("method", "setting"),
        columns="data, imbalance",
        metric="error",
        paper=paper,
    )
    return Sweep("cifar_lt:cui", product(runs, seeds(3)), table)


def _plain():
    none = {"weights.name": "uniform"}
    return product(
        choices("method", {loss: {**keys, **none} for loss, keys in PLAIN.items()}), choices("setting", {"": {}})
    )


def _balanced(name, imbalance, recipe):
    if imbalance == "1":
        return []
    chosen = [BALANCED[name][imbalance][:2]] if recipe is None else [(loss, beta) for loss in PLAIN for beta in BETAS]
    return [
        Variant(
            {"method": f"CB {loss}", "setting": f"beta {beta}"},
            {**PLAIN[loss], "weights.name": "class_balanced", "weights.beta": beta},
        )
        for loss, beta in chosen
    ]
