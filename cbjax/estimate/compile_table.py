"""Formats the figures of `cbjax compile` for a person."""

from typing import Any

from rich.table import Table
from rich.text import Text

from cbjax.data.records import noun_of
from cbjax.estimate import roofline, tpu


def headline(figures: dict[str, Any]) -> str:
    """Returns the verdict, "fits" or "does not fit", and what it is about."""
    shape = "x".join(map(str, figures["image_shape"]))
    per_chip = figures["batch_size"] // figures["num_chips"]
    return (
        f"{'fits' if figures['fits'] else 'does not fit'}: {figures['model']} ({figures['parameters']:,} parameters, "
        f"{figures['num_classes']:,} classes), {figures['batch_size']:,} {_noun(figures)}s of {shape} a step, "
        f"{per_chip:,} a chip, on {figures['topology']} ({figures['num_chips']} chips)"
    )


def table(figures: dict[str, Any]) -> Table:
    """Returns a table of what one chip holds and does, with a column for each compiled program."""
    chip, num_chips = tpu.parse_topology(figures["topology"])
    programs = {"training step": figures["train"], "evaluation step": figures.get("evaluation")}
    if not figures["train"]["fits"]:
        largest = figures["largest"]
        programs = {"training step": figures["train"]}
        if "fits" in largest:
            programs[f"with {largest['images_per_chip']:,} {_noun(figures)}s a chip"] = largest
    columns = {name: program for name, program in programs.items() if program}
    result = Table("on each chip", *columns, box=None, pad_edge=False)

    def row(name, value):
        result.add_row(Text(name), *(Text(value(one) if one["fits"] else "") for one in columns.values()))

    result.add_row(
        Text(f"HBM, of {_binary(chip.usable_bytes)} for programs"),
        *(Text(_binary(used(one))) for one in columns.values()),
    )
    for part in ("arguments", "outputs", "temporaries", "program"):
        row(f"  {part}", lambda one, part=part: _binary(_parts(one)[part]))
    row("computed", lambda one: _decimal(one["flops"], "FLOP"))
    row("bytes moved", lambda one: _decimal(one["bytes"]))
    kinds = sorted(
        {(c["kind"], c["size"]) for one in columns.values() for c in one.get("collectives", ())}, key=_largest
    )
    for kind, size in kinds:
        row(f"{kind} of {_decimal(size)}", lambda one, kind=kind, size=size: _times(one, kind, size))
    row("least time: FLOPs / peak", lambda one: _time(roofline.bound_of(one, chip, num_chips).compute))
    row("least time: bytes / bandwidth", lambda one: _time(roofline.bound_of(one, chip, num_chips).memory))
    row("least time: links", lambda one: _time(roofline.bound_of(one, chip, num_chips).links))
    row("bound: a step takes at least", lambda one: _time(roofline.bound_of(one, chip, num_chips).step))
    return result


def closing(figures: dict[str, Any]) -> list[str]:
    """Returns lines about the whole run, or about what would fit."""
    if figures["fits"]:
        bound = figures["bound"]
        return [
            f"bound: at most {figures['images_per_second']:,.0f} {_noun(figures)}s/s on the slice; "
            f"{figures['num_steps']:,} steps ({figures['num_epochs']} epochs of {figures['num_images']:,} "
            f"{_noun(figures)}s) x {_time(bound['step'])} = at least {_time(figures['run_seconds'])}, without input, "
            "evaluation and start",
            "bounds come from the compiled program and the chips' published peaks; no program reaches them",
        ]
    if figures["train"]["fits"]:
        return ["training fits, evaluation does not: set evaluation.batch_size lower"]
    largest, chips = figures["largest"], figures["num_chips"]
    images = largest["images_per_chip"]
    if not images:
        return [f"the model is too large: not even one {_noun(figures)} a chip fits"]
    guess = f"{images:,} {_noun(figures)}s a chip (batch_size={images * chips})"
    if largest["fits"]:
        return [f"estimated from the bytes of one {_noun(figures)}, and compiled: {guess} fits"]
    return [f"estimated from the bytes of one {_noun(figures)}: {guess}; compiled, that does not fit either: try fewer"]


def used(program: dict[str, Any]) -> float:
    """Returns the bytes that a program takes, or that it would need if it does not fit."""
    return sum(_parts(program).values()) if program["fits"] else program["needed"]


def _parts(program):
    """Returns bytes by purpose; outputs that take over an argument's memory are counted there."""
    memory = program["memory"]
    return {
        "arguments": memory["arguments"],
        "outputs": memory["outputs"] - memory["shared"],
        "temporaries": memory["temporaries"],
        "program": memory["program"],
    }


def _noun(figures):
    return noun_of(figures["image_shape"])


def _largest(collective):
    kind, size = collective
    return -size, kind


def _times(program, kind, size):
    times = sum(c["times"] for c in program["collectives"] if (c["kind"], c["size"]) == (kind, size))
    return f"{times} x" if times else ""


def _binary(number):
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= 0.1 * factor:
            return f"{number / factor:,.2f} {unit}"
    return f"{number:,.0f} bytes"


def _decimal(number, unit="B"):
    for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:,.2f} {prefix}{unit}"
    return f"{number:,.0f} {unit}"


def _time(seconds):
    for unit, factor in (("hours", 3600), ("minutes", 60), ("s", 1)):
        if seconds >= factor:
            return f"{seconds / factor:,.2f} {unit}"
    return f"{seconds * 1e3:,.2f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:,.2f} µs"
