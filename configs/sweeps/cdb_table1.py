"""Table 1 of Sinha et al. 2020: MNIST 4 against 9, the test error of each loss by the share of the majority class.

Command: cbjax sweep --config=cdb_table1 --workdir=runs/cdb_table1
         cbjax sweep --config=cdb_table1:short --workdir=runs/cdb_table1_short
         cbjax sweep --config=cdb_table1:means --workdir=runs/cdb_table1_means (weighted losses by both kinds of mean)
         cbjax sweep --config=cdb_table1:means_whole --workdir=runs/cdb_table1_means_whole (the same, whole schedule)
    10 seeds: --config=cdb_table1:10, or cdb_table1:short_10. On several machines: --shard=1/4 and so on.
Time: 12 settings x 5 ratios x 3 seeds = 180 runs of 200,000 steps of 100 images. The short form has a fifth of it, 800
    epochs (40,000 steps) with the decay at three quarters: about 6 minutes a run on one CPU core, of which a machine
    takes as many shards as it has. `means` is 36 runs of the short form. `means_whole` is 18 runs of the whole
    schedule, only at 0.995: 35 to 75 minutes a run on one CPU core. The paper's "4,000 epochs" must mean epochs: in a
    trial with PyTorch, LeNet-5 had not converged after 4,000 steps.
Data: MNIST by TFDS; `cbjax datasets` says whether it is ready and how to prepare it.
Source: table 1, "the best results obtained by" each loss, without gamma and beta. Here focal has gamma 0.5, 1 and 2,
    and CB has beta 0.9999 and 0.999. Nothing is chosen on test: each setting is a row.
Choices that the paper leaves open: pixels in [0, 1] and Glorot's initialisation (see `mnist_binary`), and the mean of
    weighted losses over the batch, as in the authors' code for CIFAR. `means` also has the sum of weighted losses over
    the sum of weights, as in their code for ImageNet, at 0.995 and 0.99. Difficulty has no floor, as in the paper.
Expected error %: the paper's, below; the report prints it next to the measured one. So far: `results/README.md`.
"""

from cbjax.variants import Sweep, Table, Variant, chain, choices, product, seeds, values

RATIOS = (0.995, 0.98, 0.9, 0.99, 0.95)  # the most informative first
RATIOS_OF_MEANS = {"means": (0.995, 0.99), "means_whole": (0.995,)}  # where the tables are furthest from the paper
COLUMNS = ("0.9", "0.95", "0.98", "0.99", "0.995")
EQL = "lambda 0.03, gamma 0.95"
PAPER = {
    ("CE", ""): ((1.50, 0.51), (2.36, 0.46), (5.09, 0.41), (8.59, 0.41), (14.35, 1.10)),
    ("inverse frequency", ""): ((1.16, 0.40), (1.74, 0.31), (3.13, 0.74), (6.01, 0.56), (8.94, 0.70)),
    ("focal", "gamma 1"): ((1.74, 0.26), (2.78, 0.29), (6.67, 0.63), (11.11, 1.20), (17.17, 0.86)),
    ("CB", "beta 0.9999"): ((1.07, 0.23), (1.79, 0.39), (3.58, 0.71), (5.88, 1.20), (8.61, 1.11)),
    ("EQL", EQL): ((1.49, 0.34), (2.26, 0.41), (2.43, 0.14), (2.60, 0.33), (3.71, 0.41)),
    ("L2RW", ""): ((1.24, 0.69), (1.76, 1.12), (2.06, 0.85), (2.63, 0.65), (3.94, 1.23)),
    ("CDB-CE", "dynamic tau"): ((0.74, 0.14), (1.27, 0.33), (1.65, 0.26), (2.39, 0.41), (3.71, 0.27)),
}
NOTES = (
    "The paper gives its best results of focal loss and CB without gamma or beta: they stand beside gamma 1 and beta "
    "0.9999 here.",
)
RECIPES = {
    None: (4000, 3),
    "10": (4000, 10),
    "short": (800, 3),
    "short_10": (800, 10),
    "means": (800, 3),
    "means_whole": (4000, 3),
}
FOCAL = {"loss.name": "focal"}
INVERSE = {"weights.name": "inverse_frequency"}
CB = {"weights.name": "class_balanced", "weights.beta": 0.9999}
CDB = {"weights.name": "difficulty", "difficulty.floor": 0.0}
FIRST = {
    ("CE", ""): {},
    ("inverse frequency", ""): INVERSE,
    ("focal", "gamma 1"): {**FOCAL, "loss.gamma": 1.0},
    ("CB", "beta 0.9999"): CB,
    ("CDB-CE", "dynamic tau"): CDB,
}
# The paper gives neither EQL's lambda and gamma nor how many images L2RW was shown. In its table EQL is level with CE
# at 0.9 and 0.95, so 4 was rare at the other ratios alone: lambda was between 0.02 and 0.05. Its authors have 0.03 and
# a gamma of 0.95 for EGTEA. There are 5 meta images of each class, as in the code of Ren et al. 2018, where they come
# out of the training images too.
COMPARED = {
    ("EQL", EQL): {"loss.name": "eql", "loss.rare_below": 0.06, "loss.mask_chance": 0.95},
    ("L2RW", ""): {"meta.name": "l2rw", "data.meta": 5, "meta.batch_size": 10},
}
FURTHER = {
    ("EQL", "lambda 0.25, gamma 0.9"): {"loss.name": "eql"},
    ("softmax EQL", EQL): {"loss.name": "softmax_eql", "loss.rare_below": 0.06, "loss.mask_chance": 0.95},
    ("focal", "gamma 0.5"): {**FOCAL, "loss.gamma": 0.5},
    ("focal", "gamma 2"): {**FOCAL, "loss.gamma": 2.0},
    ("CB", "beta 0.999"): {**CB, "weights.beta": 0.999},
}


def get_sweep(recipe=None):
    """Returns every loss at every ratio; "short" has a fifth of the steps, "means…" weighted losses by their mean."""
    if recipe not in RECIPES:
        raise ValueError(f"the recipes are {', '.join(filter(None, RECIPES))}; got {recipe}")
    num_epochs, num_seeds = RECIPES[recipe]
    ratios = values("ratio", "data.majority_ratio", RATIOS)
    paper = {row: dict(zip(COLUMNS, cells, strict=True)) for row, cells in PAPER.items()}
    # First the settings that the paper most likely means.
    runs = chain(*(product(ratios, _methods(some)) for some in (FIRST, COMPARED, FURTHER)))
    if recipe in RATIOS_OF_MEANS:
        ratios = values("ratio", "data.majority_ratio", RATIOS_OF_MEANS[recipe])
        runs, paper = product(ratios, _means()), _paper_of_means(RATIOS_OF_MEANS[recipe])
    table = Table(
        title=f"CDB table 1: MNIST 4 against 9 by the share of the majority, {num_epochs} epochs",
        rows=("method", "setting"),
        columns="ratio",
        metric="error",
        paper=paper,
        notes=NOTES
        + (() if num_epochs == 4000 else (f"A short form: {num_epochs} epochs where the paper has 4,000.",)),
    )
    shared = [Variant({}, {"num_epochs": num_epochs, "log.tensorboard": False})]
    return Sweep("mnist_binary", product(shared, runs, seeds(num_seeds)), table)


def _methods(options):
    return [Variant({"method": method, "setting": setting}, keys) for (method, setting), keys in options.items()]


def _means():
    weighted = choices("method", {"CDB-CE dynamic tau": CDB, "CB beta 0.9999": CB, "inverse frequency": INVERSE})
    return product(weighted, values("setting", "loss.mean", ("batch", "weight_sum"), "mean {}"))


def _paper_of_means(ratios):
    """Returns the paper's figures, which do not say by which mean, under both."""
    columns = [str(ratio) for ratio in ratios]
    return {
        (" ".join(filter(None, row)), f"mean {mean}"): {column: PAPER[row][COLUMNS.index(column)] for column in columns}
        for row in (("inverse frequency", ""), ("CB", "beta 0.9999"), ("CDB-CE", "dynamic tau"))
        for mean in ("batch", "weight_sum")
    }
