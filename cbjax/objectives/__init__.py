"""Methods as objectives: how each turns a batch into losses, what it remembers, and what its model answers.

A file a method. The losses themselves are in `losses.py`, the step that takes gradients of an objective in
`training/step.py`. Begin with `weighted.py`: cross entropy, CB, CDB and deferred weights.
"""

from cbjax.objectives.weighted import weighted

__all__ = ["weighted"]
