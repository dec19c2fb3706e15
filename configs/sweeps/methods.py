"""Every method by its name (`--config.method=NAME`) on long-tailed digits, 3 seeds each.

Command: cbjax sweep --config=configs/sweeps/methods.py --workdir=runs/methods
         cbjax sweep --config=configs/sweeps/methods.py:smote --workdir=runs/methods_smote
Time: 22 minutes with --mode=loop on one CPU core, next to other work; 12 of them in the runs. smote: 2 minutes.
Source: each method's file in cbjax/objectives, and cbjax/config/methods.py. Numbers are those of the papers or the
    authors' code; nothing is chosen for these images. l2rw and mw_net hold out 10 meta images of each class, so they
    train on fewer.
Expected accuracy on test, balanced, last epoch, mean ± standard deviation of the 3 seeds, one CPU core:
    logit_adjustment 92.6 ± 1.4, cb_focal 92.5 ± 2.2, eql 91.9 ± 1.1, progressive 91.8 ± 1.2, deferred_resampling 91.8
    ± 0.9, remix 91.8 ± 0.8, cb_sigmoid 91.7 ± 1.7, balanced_softmax 91.7 ± 1.4, imbsam 91.5 ± 1.3, ghm 91.5 ± 1.9,
    sqrt_sampling 91.5 ± 1.4, inverse_sqrt 91.3 ± 2.3, ldam_drw 91.3 ± 0.8, ldam 91.1 ± 0.9, inverse_frequency 91.1 ±
    2.1, cb_softmax 91.1 ± 2.2, cdb_focal 90.9 ± 2.5, poly 90.9 ± 1.3, class_aware 90.7 ± 2.7, oversample 90.7 ± 2.7,
    softmax_eql 90.6 ± 1.4, ce 90.3 ± 1.8, sam 90.1 ± 1.9, softmax_focal 90.1 ± 1.9, focal 90.1 ± 2.7, cmo 89.7 ± 1.2,
    mixup 89.1 ± 1.7, cdb 88.4 ± 0.5, cutmix 88.3 ± 1.2, mw_net 87.6 ± 1.2, undersample 85.8 ± 0.5, l2rw 84.9 ± 7.7,
    vs 83.1 ± 0.6; smote 91.4 ± 2.0, in 100 epochs 91.7 ± 2.5. docs/methods has them with differences from ce, seed by
    seed; the runs are in results/methods.csv and results/methods_smote.csv.
"""

from cbjax.config.methods import METHODS
from cbjax.variants import Sweep, choices, product, seeds, values

# No key `method` names it. It makes 363 images 1,080, so 34 epochs have the steps of the others' 100.
SMOTE = {"data.synthesis": "smote", "data.synthesis_neighbours": 4}
SMOTES = {"smote": {**SMOTE, "num_epochs": 34}, "smote, 100 epochs": SMOTE}


def get_sweep(recipe="all"):
    """Returns every method with seeds 0, 1 and 2, "all"; or "smote", which needs imbalanced-learn."""
    if recipe == "all":
        return Sweep("digits_lt", product(values("method", "method", METHODS), seeds(3)))
    if recipe == "smote":
        return Sweep("digits_lt", product(choices("method", SMOTES), seeds(3)))
    raise ValueError(f"the recipes are all, smote; got {recipe}")
