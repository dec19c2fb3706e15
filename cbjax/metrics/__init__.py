"""Metrics: sums over a split that merge on the device (`sums.py`), and the figures that the host computes from them.

Begin with `ClassificationSums` and `summarize`. Figures by scikit-learn's names are in `decisions.py` (F1, geometric
mean, Matthews' coefficient) and `ranking.py` (areas under curves). What is shown of them is chosen in report and cli.
"""

from cbjax.metrics.decisions import f1, geometric_mean, matthews
from cbjax.metrics.figures import expected_calibration_error, per_class_accuracy, summarize, summarize_multilabel
from cbjax.metrics.groups import FEW, MANY, SMALL, class_groups
from cbjax.metrics.ranking import average_precision, roc_auc
from cbjax.metrics.sums import CALIBRATION_BINS, ClassificationSums, confusion_matrix, has_answer

__all__ = [
    "CALIBRATION_BINS",
    "FEW",
    "MANY",
    "SMALL",
    "ClassificationSums",
    "average_precision",
    "class_groups",
    "confusion_matrix",
    "expected_calibration_error",
    "f1",
    "geometric_mean",
    "has_answer",
    "matthews",
    "per_class_accuracy",
    "roc_auc",
    "summarize",
    "summarize_multilabel",
]
