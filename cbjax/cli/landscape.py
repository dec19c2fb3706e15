"""The command `cbjax landscape`: its arguments, and which surface or curvature they ask for."""

import argparse
import math
import pathlib
from collections.abc import Callable
from typing import Any

from cbjax.host.output import say

# Options of the random directions, with the names that `landscape.directions` knows; that module needs JAX.
NORMALIZATIONS = ("filter", "layer", "none")
VECTORS = ("zero", "normalize", "copy")
STATISTICS = ("keep", "interpolate", "recompute")
CHECKPOINT = "best: the epoch with the highest balanced accuracy on held-out validation images (last)"
# What can be asked for, and the arguments that only some of it heeds.
RANDOM, LINE, PLANE = "random directions", "a line (--to)", "a plane (--to twice)"
TRAJECTORY, HESSIAN = "--trajectory", "--hessian"
HEED = {
    **dict.fromkeys(("by", "steps", "probes"), (HESSIAN,)),
    **dict.fromkeys(("dimensions", "normalization", "biases", "batch_norm"), (RANDOM,)),
    "seed": (RANDOM, HESSIAN),
    "span": (RANDOM, LINE),
    **dict.fromkeys(("points", "statistics"), (RANDOM, LINE, PLANE, TRAJECTORY)),
}
FEW = 4  # checkpoints of a way at most if a run does not keep all: the first state, the best and the two newest


def add_arguments(
    command: argparse.ArgumentParser, directory: Callable[[str], Any], up_to: Callable[[int], Any]
) -> None:
    """Adds the arguments.

    Args:
      command: the parser.
      directory: reads a directory.
      up_to: most -> a reader of whole numbers from 1.
    """
    command.epilog = "--config.data.data_dir=DIR and the like say where the run's images are now, as for eval"
    command.add_argument("--from", dest="source", required=True, metavar="DIR", type=directory, help="the finished run")
    command.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="DIR",
        type=directory,
        help="another run of the same network: once for the line between two runs, twice for the plane through three",
    )
    command.add_argument(
        "--trajectory",
        action="store_true",
        help="the way of the run's checkpoints, on its principal directions; needs a run with checkpoint.keep=all",
    )
    command.add_argument(
        "--hessian", action="store_true", help="the outer eigenvalues of the Hessian, its trace and its density"
    )
    command.add_argument(
        "--by",
        type=lambda text: tuple(text.split(",")),
        metavar="all,group,class",
        help="with --hessian: over all images, over each group of classes, over each class (all,group)",
    )
    command.add_argument("--steps", type=up_to(10**4), metavar="N", help="with --hessian: steps of Lanczos (30)")
    command.add_argument("--probes", type=up_to(10**4), metavar="N", help="with --hessian: random start vectors (4)")
    command.add_argument("--dimensions", type=int, choices=(1, 2), help="number of random directions (2)")
    command.add_argument("--points", type=up_to(10**5), metavar="N", help="points on each axis (51)")
    command.add_argument(
        "--span", type=_span, metavar="LOW:HIGH", help="range of coordinates (-1:1; on a line between runs -0.5:1.5)"
    )
    command.add_argument("--split", default="train", choices=("train", "validation", "test"), help="images (train)")
    command.add_argument("--checkpoint", default="last", choices=("last", "best"), help=CHECKPOINT)
    command.add_argument(
        "--seed", type=_seed, help="seed of the random directions, and with --hessian of the start vectors (123)"
    )
    command.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        help="parts of a random direction that get the length they have in the network (filter)",
    )
    what = "in random directions: left out, drawn with the array's length, or the array itself (zero)"
    command.add_argument("--biases", choices=VECTORS, help=f"biases {what}")
    command.add_argument("--batch-norm", choices=VECTORS, help=f"BatchNorm's scales and offsets {what}")
    command.add_argument(
        "--statistics",
        choices=STATISTICS,
        help="BatchNorm's statistics at each point: the run's own, interpolated between the runs, or recomputed from "
        "training images (keep; between runs interpolate)",
    )
    command.add_argument(
        "--name",
        dest="called",
        metavar="NAME",
        help="name of the folder DIR/landscape/NAME (default: the kind of landscape)",
    )
    command.add_argument("--images-at-once", type=up_to(10**6), metavar="B", help="images of a batch")
    command.add_argument("--out", metavar="DIR", type=pathlib.Path, help="another folder")
    command.add_argument(
        "--progress",
        default="auto",
        choices=("auto", "on", "lines", "off"),
        help="a bar, lines, or neither; auto: a bar at a terminal, lines elsewhere (auto)",
    )
    command.add_argument(
        "--trust-code",
        action="store_true",
        help="run the work directory's own copies of a user's network and loss, which can do anything that you can",
    )


def check(options: argparse.Namespace, error: Callable[[str], Any]) -> None:
    """Calls `error` with a message if arguments do not go together."""
    if options.trajectory and options.to:
        error("--trajectory is of one run; leave out --to")
    if options.hessian and (options.to or options.trajectory):
        error("--hessian is of one run's network as it is; leave out --to and --trajectory")
    if len(options.to) > 2:
        error(f"--to can be given once, for a line, or twice, for a plane; got {len(options.to)}")
    asked = _asked(options)
    for name, kinds in HEED.items():
        if getattr(options, name) is not None and asked not in kinds:
            flag = f"--{name.replace('_', '-')}"
            error(f"{flag} does nothing for {asked}, but for {', '.join(kinds)}: leave it out")


def _asked(options):
    if options.hessian or options.trajectory:
        return HESSIAN if options.hessian else TRAJECTORY
    return (RANDOM, LINE, PLANE)[len(options.to)]


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Measures what the arguments ask for, and says where it is."""
    from cbjax import landscape

    names = ("split", "checkpoint", "out", "progress", "trust_code")
    given = {name: getattr(options, name) for name in names} | {"name": options.called, "overrides": overrides}
    # What is not given has the default of the functions.
    given |= {name: value for name in ("images_at_once", *HEED) if (value := getattr(options, name)) is not None}
    if options.hessian:
        return _hessian(options.source, given)
    if options.trajectory:
        surface = landscape.trajectory(options.source, **given)
    elif len(options.to) == 2:
        surface = landscape.plane(options.source, *options.to, **given)
    elif options.to:
        surface = landscape.line(options.source, options.to[0], **given)
    else:
        surface = landscape.random(options.source, **given)
    for line in _lines(surface):
        say(line)
    say(f"landscape: {surface.folder}")
    return 0


def _hessian(source, given):
    from cbjax import landscape

    found = landscape.curvature(source, **given)
    width = max(len(part.name) for part in found.parts)
    say(f"{'':{width}}  {'images':>7}  {'smallest':>10}  {'largest':>10}  {'trace':>10}")
    for part in found.parts:
        numbers = f"{part.smallest:10.4g}  {part.largest:10.4g}  {part.trace:10.4g}"
        numbers += "" if math.isnan(part.trace_error) else f" ± {part.trace_error:.2g}"
        say(f"{part.name:{width}}  {part.images:7}  {numbers}")
    say(f"curvature: {found.folder}")
    return 0


def _lines(surface):
    """Returns what a person wants to know first: the loss at its lowest and at the marks, by group."""
    import numpy as np

    rows = {"all images": surface.loss, **{name: surface.group_loss(name) for name in surface.groups}}
    width = max(map(len, rows))
    yield f"{'':{width}}  {'lowest loss':>12}  {'highest':>10}"
    for name, values in rows.items():
        if name in surface.groups and not surface.class_count[surface.groups[name]].any():
            yield f"{name:{width}}  {'no images':>12}"
            continue
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (math.nan, math.nan)
        yield f"{name:{width}}  {low:12.4g}  {high:10.4g}"
    if lost := int((~np.isfinite(surface.loss)).sum()):
        yield f"at {lost} of {surface.loss.size} points the loss is not finite"
    if "explained" in surface.about:
        shares = " and ".join(f"{100 * share:.1f}" for share in surface.about["explained"])
        count = len(surface.path)
        more = "" if count > FEW else " (a training with checkpoint.keep=all keeps more)"
        yield f"the way has {count} checkpoints{more}; the principal directions explain {shares} % of its variance"


def _span(text):
    low, found, high = text.partition(":")
    try:
        span = float(low), float(high)
    except ValueError:
        span = (math.nan, math.nan)
    if not found or not all(map(math.isfinite, span)) or span[0] >= span[1]:
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH, such as -1:1; got {text[:40]!r}")
    return span


def _seed(text):
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0; got {text[:40]!r}")
    return int(text)
