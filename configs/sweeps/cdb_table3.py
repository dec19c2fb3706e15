"""Tables 3 and 4 of Sinha et al. 2020: long-tailed CIFAR-100 with ResNet-32, accuracy by method, tau and imbalance.

Command: cbjax sweep --config=cdb_table3 --workdir=runs/cdb_table3      (methods)
         cbjax sweep --config=cdb_table3:tau --workdir=runs/cdb_table4  (tau, table 4)
Time: 25 runs of a seed (tau: 35), 3 seeds; a run has 13,400 to 27,600 steps of 128 images, 200 epochs.
    On 2 CPU cores about a minute for 85 steps; not measured on a GPU yet.
Data: CIFAR-100 by TFDS; `cbjax datasets` says whether it is ready and how to prepare it.
Source: tables 3 and 4; the recipe is `cifar_lt:cdb`. L2RW, Meta-Weight-Net, EQL and LDAM-DRW are the paper's alone.
    CB has the beta and gamma of Cui et al. 2019 for each imbalance.
Expected accuracy %: the paper's, below, which the report prints beside what was measured.
"""

from cbjax.variants import Sweep, Table, Variant, chain, choices, product, seeds, values

IMBALANCES = ("200", "100", "50", "20", "10")
PAPER = {
    ("focal", ""): (35.62, 38.41, 44.32, 51.95, 55.78),
    ("CB", ""): (36.23, 39.60, 45.32, 52.99, 57.99),
    ("L2RW", ""): (33.38, 40.23, 44.44, 51.64, 53.73),
    ("Meta-Weight-Net", ""): (37.91, 42.09, 46.74, 54.37, 58.46),
    ("EQL", ""): (37.34, 40.54, 44.70, 54.12, 58.32),
    ("LDAM-DRW", ""): (None, 42.04, None, None, 58.71),
    ("CDB-CE", "dynamic tau"): (37.40, 42.57, 46.78, 54.22, 58.74),
}
PAPER_TAU = {
    ("CDB-CE", "tau 0"): (34.95, 38.21, 43.89, 51.34, 55.65),
    ("CDB-CE", "tau 0.5"): (37.21, 41.26, 46.13, 54.60, 58.29),
    ("CDB-CE", "tau 1"): (37.99, 41.67, 46.45, 53.48, 59.47),
    ("CDB-CE", "tau 1.5"): (37.63, 42.70, 47.09, 52.74, 58.68),
    ("CDB-CE", "tau 2"): (37.03, 42.44, 46.94, 53.00, 58.65),
    ("CDB-CE", "tau 5"): (36.81, 40.62, 45.45, 51.67, 54.48),
    ("CDB-CE", "dynamic tau"): (37.40, 42.57, 46.78, 54.22, 58.74),
}
FOCAL = {"loss.name": "focal", "weights.name": "class_balanced"}
SIGMOID = {"loss.name": "sigmoid", "weights.name": "class_balanced"}
CB = {
    "200": {**FOCAL, "weights.beta": 0.9, "loss.gamma": 1.0},
    "100": {**FOCAL, "weights.beta": 0.9, "loss.gamma": 1.0},
    "50": {**SIGMOID, "weights.beta": 0.99},
    "20": {**FOCAL, "weights.beta": 0.99, "loss.gamma": 0.5},
    "10": {**FOCAL, "weights.beta": 0.999, "loss.gamma": 0.5},
}


def get_sweep(recipe=None):
    """Returns every method at every imbalance; "tau" has CDB with every tau."""
    if recipe not in (None, "tau"):
        raise ValueError(f"the recipe is tau, or none; got {recipe}")
    runs, paper = (_taus(), PAPER_TAU) if recipe else (_methods(), PAPER)
    table = Table(
        title=f"CDB table {4 if recipe else 3}: long-tailed CIFAR-100 by imbalance",
        rows=("method", "setting"),
        columns="imbalance",
        metric="accuracy",
        paper={
            row: {name: (cell, None) for name, cell in zip(IMBALANCES, cells, strict=True) if cell is not None}
            for row, cells in paper.items()
        },
    )
    return Sweep("cifar_lt:cdb", product(runs, seeds(3)), table)


def _imbalances():
    return [Variant({"imbalance": name}, {"data.imbalance": float(name)}) for name in ("100", "50", "200", "20", "10")]


def _methods():
    fixed = {
        ("CE", ""): {"weights.name": "uniform"},
        ("focal", ""): {"weights.name": "uniform", "loss.name": "focal"},
        ("CDB-CE", "dynamic tau"): {},
        ("CDB-CE", "authors' tau"): {"difficulty.formula": "authors_code"},
    }
    named = [Variant({"method": method, "setting": setting}, keys) for (method, setting), keys in fixed.items()]
    balanced = [
        Variant({**one.labels, "method": "CB", "setting": ""}, {**one.overrides, **CB[one.labels["imbalance"]]})
        for one in _imbalances()
    ]
    return chain(product(_imbalances(), named), balanced)


def _taus():
    taus = chain(
        choices("setting", {"tau 0": {"weights.name": "uniform"}}),
        values("setting", "difficulty.tau", (0.5, 1, 1.5, 2, 5), "tau {}"),
        choices("setting", {"dynamic tau": {}}),
    )
    return product(_imbalances(), choices("method", {"CDB-CE": {}}), taus)
