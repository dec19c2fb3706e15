"""Methods as objectives: how each turns a batch into losses, what it remembers, and how its model predicts.

Each method has a file; `mixing.py` (mixup) and `sharpness.py` (SAM) go around any of them. The losses are in
`losses/`. `training/step.py` takes the gradient of an objective. Begin with `weighted.py`: cross entropy, CB, CDB and
deferred weights. `ghm.py` has a state, `l2rw.py` a second stream of images.

A new method needs a file here, a line in `training/components.py`, which chooses the objective of a run, and in
`config/` its keys (`schema.py`), when they have an effect (`rules.py`, EFFECTS) and what goes together
(`method_rules.py`). A new `loss.name` also needs its facts in `losses.LOSSES`.
"""

from cbjax.objectives.adjusted import adjusted, logit_adjusted, vector_scaled
from cbjax.objectives.equalized import equalized
from cbjax.objectives.ghm import ghm, ghm_softmax
from cbjax.objectives.l2rw import l2rw
from cbjax.objectives.ldam import ldam
from cbjax.objectives.mw_net import mw_net
from cbjax.objectives.oltr import oltr
from cbjax.objectives.weighted import weighted

__all__ = [
    "adjusted",
    "equalized",
    "ghm",
    "ghm_softmax",
    "l2rw",
    "ldam",
    "logit_adjusted",
    "mw_net",
    "oltr",
    "vector_scaled",
    "weighted",
]
