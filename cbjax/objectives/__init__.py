"""Methods as objectives: how each turns a batch into losses, what it remembers, and what its model answers.

Each method has a file; `sharpness.py` (SAM) goes around any of them. The losses are in `losses/`. `training/step.py`
takes the gradient of an objective, and `training/components.py` chooses the objective of a run. Begin with
`weighted.py`: cross entropy, CB, CDB and deferred weights.
"""

from cbjax.objectives.adjusted import adjusted, logit_adjusted
from cbjax.objectives.ghm import ghm
from cbjax.objectives.l2rw import l2rw
from cbjax.objectives.ldam import ldam
from cbjax.objectives.weighted import weighted

__all__ = ["adjusted", "ghm", "l2rw", "ldam", "logit_adjusted", "weighted"]
