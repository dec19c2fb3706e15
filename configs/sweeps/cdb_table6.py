"""Tables 6 and 7 of Sinha et al. 2020: EGTEA Gaze+ with 3D-ResNeXt-101, figures of all, majority and minority verbs.

Command: cbjax sweep --config=cdb_table6 --workdir=runs/cdb_table6
        --config.model.pretrained=resnext-101-kinetics.safetensors
    EGTEA elsewhere: --config.data.root=DIR. Weights of Kinetics: the config `egtea` says which.
    cbjax sweep --config=cdb_table6:authors_code … (their momentum, pixels, frames, dynamic tau and majority verbs)
Time: 4 runs a seed, 3 seeds; a run has 19,913 steps of 32 clips; 7.65e6 clips of 10 frames and 1.23e18 FLOP in all, by
    --dry-run. One H100 at a third of its 494 TFLOP/s for float32 values would compute for 2 hours. Not measured.
Data: as in the config `egtea`.
Source: tables 6 and 7; the recipe is the config `egtea`. The paper gives no gamma and beta for focal loss and CB. Here
    they are the defaults of the authors' code, gamma 1, of the softmax, and beta 0.9, with cross entropy. Their code
    tests the epoch of the best top-1 accuracy on validation; the report has the last one and that of the best balanced
    accuracy. Figure 1 of the paper, training clips and accuracy of each verb, is "Classes" in the report.
Expected accuracy %: the paper's, below; the report prints it next to the measured one.
"""

from cbjax.variants import Sweep, Table, choices, product, seeds

METHODS = {
    "CE": {"weights.name": "uniform"},
    "focal": {"weights.name": "uniform", "loss.name": "softmax_focal", "loss.gamma": 1.0},
    "CB": {"weights.name": "class_balanced", "weights.beta": 0.9},
    "CDB-CE": {},
}
METRICS = {
    "top-1": "accuracy",
    "top-5": "top5_accuracy",
    "recall": "macro_recall",
    "precision": "macro_precision",
    "majority recall": "majority_accuracy",
    "majority precision": "majority_precision",
    "minority recall": "minority_accuracy",
    "minority precision": "minority_precision",
}
PAPER = {
    "CE": (67.41, 95.40, 64.77, 61.73, 74.91, 75.62, 61.14, 56.75),
    "focal": (64.34, 94.36, 59.17, 59.09, 70.27, 75.00, 55.21, 53.40),
    "CB": (66.86, 95.69, 63.26, 63.39, 75.95, 73.75, 58.72, 59.68),
    "CDB-CE": (69.14, 96.84, 66.24, 63.86, 74.42, 73.51, 63.31, 60.42),
}


def get_sweep(recipe="paper"):
    """Returns each method with 3 seeds, by the recipe of the config `egtea`."""
    table = Table(
        title="CDB tables 6 and 7: EGTEA",
        rows=("method",),
        columns="figure",
        metric=METRICS,
        paper={
            (method,): {name: (figure, None) for name, figure in zip(METRICS, figures, strict=True)}
            for method, figures in PAPER.items()
        },
        notes=("Recall and precision are means over all, majority or minority verbs.",),
    )
    return Sweep(f"egtea:{recipe}", product(choices("method", METHODS), seeds(3)), table)
