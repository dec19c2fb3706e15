"""Which keys of a method go together: its loss, its head, its meta images, the adjustment of its answers."""

from collections.abc import Iterator, Mapping
from typing import Any

from cbjax.config.batch_rules import divisible
from cbjax.config.schema import is_streamed
from cbjax.host.code import is_own


def problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with the keys of a method, a line each."""
    loss, head, tau, meta = (values[key] for key in ("loss.name", "model.head", "evaluation.tau", "meta.name"))
    if head != "auto" and (head == "normalized") != (loss == "ldam"):
        needed = "normalized" if loss == "ldam" else "linear"
        yield f"model.head must be {needed}, or auto, when loss.name is {loss}; got {head}"
    if loss in ("ghm", "ghm_softmax") and (mean := values["loss.mean"]) != "batch":
        yield f"loss.mean must be batch when loss.name is {loss}, which has weights of its own; got {mean}"
    if tau and loss in ("sigmoid", "focal", "eql", "ghm"):
        yield f"evaluation.tau must be 0 when loss.name is {loss}, whose answers are one-vs-rest; got {tau}"
    if meta != "none":
        yield from _meta(values, meta)


def _meta(values, meta):
    if not values["data.meta"]:
        yield f"data.meta must be above 0 when meta.name is {meta}, which needs meta images; got 0: try data.meta=10"
    loss = values["loss.name"]
    if loss not in ("softmax", "sigmoid", "focal") and not is_own(loss):
        yield f"loss.name must be softmax, sigmoid, focal or your own function when meta.name is {meta}; got {loss}"
    if values["loss.mean"] != "batch":
        yield f"loss.mean must be batch when meta.name is {meta}, with a mean of its own; got {values['loss.mean']}"
    if values["optim.accumulation"] > 1:
        yield f"optim.accumulation must be 1 when meta.name is {meta}; got {values['optim.accumulation']}"
    if is_streamed(values["data.name"]):
        name = values["data.name"]
        yield f"meta.name must be none when data.name is {name}, whose images do not lie in memory; got {meta}"
    if values["devices"]:
        yield from divisible("meta.batch_size", values["meta.batch_size"], values["devices"])
