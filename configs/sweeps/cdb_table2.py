"""Table 2 of Sinha et al. 2020: MNIST 4 against 9, the test error of CDB-CE by tau and by the share of the majority.

Command: cbjax sweep --config=cdb_table2 --workdir=runs/cdb_table2
         cbjax sweep --config=cdb_table2:short --workdir=runs/cdb_table2_short
    10 seeds: --config=cdb_table2:10, or cdb_table2:short_10. On several machines: --shard=1/4 and so on.
Time: 7 settings x 5 ratios x 3 seeds = 105 runs of 200,000 steps; the short form, 800 epochs (40,000 steps), about 6
    minutes a run on one CPU core, of which a machine takes as many shards as it has.
Data: MNIST by TFDS.
Source: table 2; what the paper leaves open is chosen as in cdb_table1.
Expected error %: the paper's, below; the report prints it next to the measured one. So far: `results/README.md`.
"""

from cbjax.variants import Sweep, Table, Variant, chain, choices, product, seeds, values

RATIOS = (0.995, 0.98, 0.9, 0.99, 0.95)  # the most informative first
COLUMNS = ("0.9", "0.95", "0.98", "0.99", "0.995")
PAPER = {
    "tau 0.5": ((1.06, 0.34), (1.43, 0.24), (1.93, 0.27), (2.59, 0.44), (4.03, 0.41)),
    "tau 1": ((0.90, 0.27), (1.38, 0.20), (1.86, 0.30), (2.49, 0.57), (3.94, 0.36)),
    "tau 1.5": ((0.85, 0.19), (1.35, 0.31), (1.71, 0.28), (2.31, 0.38), (3.54, 0.25)),
    "tau 2": ((0.75, 0.15), (1.21, 0.32), (1.75, 0.36), (2.23, 0.34), (3.65, 0.41)),
    "tau 5": ((0.88, 0.25), (1.19, 0.36), (2.00, 0.32), (2.51, 0.41), (3.78, 0.43)),
    "tau 7": ((0.96, 0.20), (1.20, 0.20), (2.04, 0.30), (2.64, 0.40), (4.13, 0.37)),
    "dynamic tau": ((0.74, 0.14), (1.27, 0.33), (1.65, 0.26), (2.39, 0.41), (3.71, 0.27)),
}
CDB = {"weights.name": "difficulty", "difficulty.floor": 0.0}
RECIPES = {None: (4000, 3), "10": (4000, 10), "short": (800, 3), "short_10": (800, 10)}


def get_sweep(recipe=None):
    """Returns every tau at every ratio; "short" has a fifth of the steps."""
    if recipe not in RECIPES:
        raise ValueError(f"the recipes are {', '.join(filter(None, RECIPES))}; got {recipe}")
    num_epochs, num_seeds = RECIPES[recipe]
    variants = product(
        [Variant({}, {"num_epochs": num_epochs, "log.tensorboard": False, **CDB})],
        values("ratio", "data.majority_ratio", RATIOS),
        choices("method", {"CDB-CE": {}}),
        chain(
            values("setting", "difficulty.tau", (0.5, 1, 1.5, 2, 5, 7), "tau {}"),
            choices("setting", {"dynamic tau": {}}),
        ),
        seeds(num_seeds),
    )
    table = Table(
        title=f"CDB table 2: MNIST 4 against 9 by tau and the share of the majority, {num_epochs} epochs",
        rows=("method", "setting"),
        columns="ratio",
        metric="error",
        paper={("CDB-CE", row): dict(zip(COLUMNS, cells, strict=True)) for row, cells in PAPER.items()},
        notes=() if num_epochs == 4000 else (f"A short form: {num_epochs} epochs where the paper has 4,000.",),
    )
    return Sweep("mnist_binary", variants, table)
