"""Table 4 of Sinha et al. 2020: long-tailed CIFAR-100 with ResNet-32, accuracy of CDB-CE by tau and imbalance.

Command: cbjax sweep --config=cdb_table4 --workdir=runs/cdb_table4
Time: 35 runs of a seed, 3 seeds; a run has 13,400 to 27,522 steps of 128 images, 200 epochs. On 2 CPU cores about a
    minute for 85 steps; not measured on a GPU yet.
Data: CIFAR-100 by TFDS; `cbjax datasets` says whether it is ready and how to prepare it.
Source: table 4; the recipe is `cifar_lt:cdb`, as in cdb_table3. tau 0 is plain cross entropy.
Expected accuracy %: the paper's, below; the report prints it next to the measured one.
"""

from cbjax.variants import Sweep, Table, Variant, chain, choices, product, seeds, values

IMBALANCES = ("200", "100", "50", "20", "10")
PAPER = {
    "tau 0": (34.95, 38.21, 43.89, 51.34, 55.65),
    "tau 0.5": (37.21, 41.26, 46.13, 54.60, 58.29),
    "tau 1": (37.99, 41.67, 46.45, 53.48, 59.47),
    "tau 1.5": (37.63, 42.70, 47.09, 52.74, 58.68),
    "tau 2": (37.03, 42.44, 46.94, 53.00, 58.65),
    "tau 5": (36.81, 40.62, 45.45, 51.67, 54.48),
    "dynamic tau": (37.40, 42.57, 46.78, 54.22, 58.74),
}


def get_sweep():
    """Returns every tau at every imbalance, the most informative first."""
    imbalances = [
        Variant({"imbalance": name}, {"data.imbalance": float(name)}) for name in ("100", "50", "200", "20", "10")
    ]
    taus = chain(
        choices("setting", {"tau 0": {"weights.name": "uniform"}}),
        values("setting", "difficulty.tau", (0.5, 1, 1.5, 2, 5), "tau {}"),
        choices("setting", {"dynamic tau": {}}),
    )
    table = Table(
        title="CDB table 4: long-tailed CIFAR-100 by tau and imbalance",
        rows=("method", "setting"),
        columns="imbalance",
        metric="accuracy",
        paper={
            ("CDB-CE", tau): {name: (cell, None) for name, cell in zip(IMBALANCES, cells, strict=True)}
            for tau, cells in PAPER.items()
        },
    )
    return Sweep("cifar_lt:cdb", product(imbalances, choices("method", {"CDB-CE": {}}), taus, seeds(3)), table)
