"""Every method by its name (`--config.method=NAME`) on long-tailed digits, 3 seeds each.

Command: cbjax sweep --config=configs/sweeps/methods.py --workdir=runs/methods
Time: minutes on 2 CPU cores.
Source: each method's file in cbjax/objectives, and cbjax/config/methods.py. Numbers are those of the papers or the
    authors' code; nothing is chosen for these images. l2rw and mw_net hold out 10 meta images of each class, so they
    train on fewer.
Expected accuracy on test, balanced, last epoch, mean ± standard deviation of the 3 seeds, one CPU core: ce
    90.3 ± 1.8, eql 91.9 ± 1.1, inverse_sqrt 91.3 ± 2.3, ldam_drw 91.3 ± 0.8, cdb_focal 90.9 ± 2.5, poly 90.9 ± 1.3,
    softmax_eql 90.6 ± 1.4, softmax_focal 90.1 ± 1.9, vs 83.1 ± 0.6. The others are not measured yet.
"""

from cbjax.config.methods import METHODS, keys_of
from cbjax.variants import Sweep, choices, product, seeds


def get_sweep():
    """Returns every method with seeds 0, 1 and 2."""
    return Sweep("digits_lt", product(choices("method", {name: keys_of(name) for name in METHODS}), seeds(3)))
