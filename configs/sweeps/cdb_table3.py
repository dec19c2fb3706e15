"""Table 3 of Sinha et al. 2020: long-tailed CIFAR-100 with ResNet-32, accuracy by method and imbalance.

Command: cbjax sweep --config=cdb_table3 --workdir=runs/cdb_table3
         cbjax sweep --config=cdb_table3:short --workdir=runs/cdb_table3_short  (CE, CB, CDB, imbalance 100, 20 epochs)
Time: 45 runs of a seed, 3 seeds; a run has 13,050 to 27,522 steps of 128 images, 200 epochs. On 2 CPU cores about a
    minute for 85 steps; not measured on a GPU yet. The short form: 12 runs of 1,525 steps, a tenth of the schedule with
    the decays at the same shares of it; one takes half an hour on one CPU core.
Data: CIFAR-100 by TFDS; `cbjax datasets` says whether it is ready and how to prepare it.
Source: table 3; the recipe is `cifar_lt:cdb`. CB has the beta and gamma of Cui et al. 2019 for each imbalance. The
    paper took its figures for focal loss and CB from them (100 - error; their figure for CB at imbalance 20 is 52.59).
    Their recipe differs: it also trains on the 50 images of a class that are held out here. Its figures of L2RW and
    Meta-Weight-Net are those of Shu et al. 2019 (100 epochs, batch 100), those of LDAM-DRW of Cao et al. 2019 (weight
    decay 2e-4); here they have the recipe of the others. Both meta methods hold out 10 images more of each class. EQL
    has the defaults of the authors' code, lambda 0.005 and gamma 0.9.
Expected accuracy %: the paper's, below; the report prints it next to the measured one. So far: `results/README.md`.
"""

from cbjax.variants import Sweep, Table, Variant, product, seeds

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
FOCAL = {"loss.name": "focal", "weights.name": "class_balanced"}
SIGMOID = {"loss.name": "sigmoid", "weights.name": "class_balanced"}
CB = {
    "200": {**FOCAL, "weights.beta": 0.9, "loss.gamma": 1.0},
    "100": {**FOCAL, "weights.beta": 0.9, "loss.gamma": 1.0},
    "50": {**SIGMOID, "weights.beta": 0.99},
    "20": {**FOCAL, "weights.beta": 0.99, "loss.gamma": 0.5},
    "10": {**FOCAL, "weights.beta": 0.999, "loss.gamma": 0.5},
}
COMPARED = {"L2RW": "l2rw", "Meta-Weight-Net": "mw_net", "EQL": "eql", "LDAM-DRW": "ldam_drw"}
SHORT_EPOCHS, SHORT_METHODS = 20, ("CE", "CB", "CDB-CE")
NOTES = (
    "The paper's figures of focal loss and CB are those of Cui et al. 2019, whose recipe is another: nothing held out, "
    "warm-up, weight decay 2e-4. Those of L2RW and Meta-Weight-Net are those of Shu et al. 2019, that "
    "of LDAM-DRW is of Cao et al. 2019.",
)
SHORT = (f"A short form: {SHORT_EPOCHS} epochs where the paper has 200.",)


def get_sweep(recipe=None):
    """Returns every method at every imbalance, the most telling first; "short" has three methods and a tenth of it."""
    if recipe not in (None, "short"):
        raise ValueError(f"the recipe is short, or none; got {recipe}")
    imbalances = ("100",) if recipe else ("100", "50", "200", "20", "10")
    runs = _methods(imbalances)
    if recipe:
        short = [Variant({}, {"num_epochs": SHORT_EPOCHS, "log.tensorboard": False})]
        runs = product(short, [one for one in runs if one.labels["method"] in SHORT_METHODS])
    table = Table(
        title="CDB table 3: long-tailed CIFAR-100 by imbalance",
        rows=("method", "setting"),
        columns="imbalance",
        metric="accuracy",
        paper={
            row: {
                name: (cell, None) for name, cell in zip(IMBALANCES, cells, strict=True) if cell and name in imbalances
            }
            for row, cells in PAPER.items()
        },
        notes=(*NOTES, *SHORT) if recipe else NOTES,
    )
    return Sweep("cifar_lt:cdb", product(runs, seeds(3)), table)


def _methods(imbalances):
    fixed = {
        ("CE", ""): {"weights.name": "uniform"},
        ("focal", ""): {"weights.name": "uniform", "loss.name": "focal"},
        ("CDB-CE", "dynamic tau"): {},
        ("CDB-CE", "authors' tau"): {"difficulty.formula": "authors_code"},
    }
    runs = []
    for name in imbalances:
        cell = Variant({"imbalance": name}, {"data.imbalance": float(name)})
        named = [Variant({"method": method, "setting": setting}, keys) for (method, setting), keys in fixed.items()]
        named.append(Variant({"method": "CB", "setting": ""}, CB[name]))
        named += [Variant({"method": label, "setting": ""}, {"method": key}) for label, key in COMPARED.items()]
        runs += product([cell], named)
    return runs
