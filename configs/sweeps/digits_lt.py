"""Cross entropy, CB-focal, CDB and smoothed CDB on long-tailed digits, 3 seeds each; a seed's methods share its split.

Command: cbjax sweep --config=configs/sweeps/digits_lt.py --workdir=runs/digits_lt
Time: about 100 seconds on 2 CPU cores.
Source: the methods of Cui et al. 2019 and Sinha et al. 2020, CDB with dynamic tau. cdb_smoothed is ours; it is the form
    of CDB that we recommend (docs/cdb_swings.md).
Expected accuracy on test, last epoch, mean ± standard deviation of the 3 seeds, measured on CPU:

    |          | balanced   | few        | worst class |
    |----------|------------|------------|-------------|
    | ce       | 90.3 ± 1.8 | 73.6 ± 6.7 | 58.7 ± 5.0  |
    | cb_focal | 92.5 ± 2.2 | 78.9 ± 5.4 | 63.3 ± 7.6  |
    | cdb      | 88.4 ± 0.5 | 70.7 ± 0.7 | 54.0 ± 4.0  |
    | smoothed | 91.5 ± 2.0 | 79.8 ± 6.5 | 70.0 ± 7.2  |
"""

from cbjax.variants import Sweep, choices, product, seeds

METHODS = {
    "ce": {},
    "cb_focal": {"loss.name": "focal", "weights.name": "class_balanced"},
    "cdb": {"weights.name": "difficulty"},
    "cdb_smoothed": {"weights.name": "difficulty", "difficulty.smoothing": 0.8},
}


def get_sweep():
    """Returns every method with seeds 0, 1 and 2."""
    return Sweep("digits_lt", product(choices("method", METHODS), seeds(3)))
