"""The command `cbjax datasets frames`: extracts the frames of all videos of a folder."""

import argparse
from collections.abc import Callable

from cbjax.host.output import say

LARGEST_QUALITY = 100


def add_arguments(
    datasets: argparse.ArgumentParser, directory: Callable[[str], object], up_to: Callable[[int], Callable]
) -> None:
    """Adds the command below `datasets`; `directory` and `up_to` read a folder and a number."""
    tasks = datasets.add_subparsers(dest="task", metavar="frames")
    text = (
        "Write SRC/…/CLIP.mp4 as OUT/…/CLIP/000000.jpg …, once, for a training that reads single frames faster than "
        "videos. Call again to go on; a video that cannot be decoded is named, and the others go on."
    )
    frames = tasks.add_parser("frames", help="extract the frames of videos", description=text, allow_abbrev=False)
    frames.add_argument("source", metavar="SRC", type=directory, help="folder of videos, at any depth")
    frames.add_argument("out", metavar="OUT", type=directory, help="folder of the results")
    frames.add_argument("--quality", type=up_to(LARGEST_QUALITY), default=95, metavar="Q", help="of the JPEGs (95)")
    frames.add_argument("--workers", type=up_to(1000), metavar="N", help="processes (one a core)")


def run(options: argparse.Namespace) -> int:
    """Extracts; returns 1 if a video cannot be decoded."""
    from cbjax.data import listing
    from cbjax.data.clips import extraction
    from cbjax.host.counting import counted

    what = extraction.plan(options.source, options.out)
    for line in listing.describe({"": what.left_out}):
        say(f"{options.source}: {line}")
    if what.newer:
        say(
            f"videos that are newer than their frames: {len(what.newer)}, such as {what.newer[0]}; remove their "
            f"folders below {what.out} to make these again"
        )
    total = what.done + len(what.waiting)
    if what.done:
        say(f"the frames of {what.done} of {total} videos are there already")
    with counted(total, what.done, "videos", "auto", lambda line: say(line, error=True)) as progress:
        failed = extraction.extract(what, quality=options.quality, workers=options.workers, progress=progress)
    for path, reason in failed:
        say(f"{path}: {reason}", error=True)
    if failed:
        say(f"{len(failed)} of {total} videos could not be decoded; they are named above", error=True)
    say(f"frames of {total - len(failed)} videos: {options.out}")
    return 1 if failed else 0
