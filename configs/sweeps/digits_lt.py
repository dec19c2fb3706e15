"""Cross entropy, CB-focal and CDB on long-tailed digits, 3 seeds each; all methods of a seed share its split.

Command: cbjax sweep --config=configs/sweeps/digits_lt.py --workdir=runs/digits_lt
Time: not measured yet (meant: under 2 minutes on 2 cores).
Source: the methods of Cui et al. 2019 and Sinha et al. 2020.
Expected accuracy: not measured yet.
"""

METHODS = {
    "ce": {},
    "cb_focal": {"loss.name": "focal", "weights.name": "class_balanced"},
    "cdb": {"weights.name": "difficulty", "difficulty.tau": 1.0},
}


def get_runs():
    """Returns (folder, configuration, overrides) of each run."""
    return [
        (f"{method}/seed_{seed}", "digits_lt", {**overrides, "seed": seed})
        for method, overrides in METHODS.items()
        for seed in range(3)
    ]
