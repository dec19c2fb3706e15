"""Methods as objectives: how each turns a batch into losses, what it remembers, and what its model answers.

A file a method. The losses themselves are in `losses.py`, the step that takes gradients of an objective in
`training/step.py`, and what chooses among them in `training/components.py`. Begin with `weighted.py`: cross entropy,
CB, CDB and deferred weights.
"""

from cbjax.objectives.adjusted import adjusted, logit_adjusted
from cbjax.objectives.ghm import ghm
from cbjax.objectives.l2rw import l2rw
from cbjax.objectives.ldam import ldam
from cbjax.objectives.weighted import weighted

__all__ = ["adjusted", "ghm", "l2rw", "ldam", "logit_adjusted", "weighted"]
