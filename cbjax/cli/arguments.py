"""The arguments that the `cbjax` command takes."""

import argparse
import pathlib
import re
from collections.abc import Sequence

from cbjax.config.schema import show
from cbjax.host.storage import PathError, as_path, is_remote
from cbjax.host.text import visible


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the arguments of the command; a mistake is told by argparse, which ends with exit status 2.

    Returns:
      The options, with the command's `name`, and the overrides "KEY=VALUE" of its config.
    """
    parser = _Parser(
        prog="cbjax",
        description="Train long-tailed classifiers with class-balanced and difficulty-balanced losses.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name, text):
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    train = add("train", "Train one run, or go on with it, and report on it.")
    sweep = add("sweep", "Train a list of runs, skip finished ones, and report on all.")
    for command in (train, sweep):
        command.add_argument(
            "--config",
            required=True,
            metavar="FILE",
            help="a file, or the name of one that cbjax brings, such as digits_lt",
        )
        command.add_argument(
            "--workdir",
            required=command is train,
            metavar="DIR",
            type=_directory if command is train else _local_directory,
            help="where everything is kept; call again to resume",
        )
        command.epilog = "--config.KEY=VALUE changes a key, such as --config.data.imbalance=50"
        _add_processes(command)
    train.add_argument("--extend", action="store_true", help="allow num_epochs to be larger than the work directory's")
    train.add_argument(
        "--profile",
        type=_up_to(10**5),
        default=0,
        metavar="STEPS",
        help="write a trace of so many steps to DIR/profile",
    )
    sweep.add_argument("--dry-run", action="store_true", help="list the runs and what they take, and train none")
    sweep.add_argument(
        "--mode",
        default="auto",
        choices=("auto", "loop", "vmap", "devices"),
        help="runs one after another, several on a device, or several on every device (of a CPU, core); auto measures",
    )
    sweep.add_argument("--group-size", type=_up_to(10**5), metavar="K", help="runs at a time (auto: at most)")
    sweep.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="train every N-th run from the I-th")
    sweep.add_argument(
        "--results", metavar="FILE", type=_local_directory, help="CSV of finished runs (default: DIR/results.csv)"
    )
    evaluate = add("eval", "Evaluate a trained run on one of its splits, or on new labelled images.")
    evaluate.epilog = (
        "--config.KEY=VALUE changes what can differ at test time, such as --config.data.image_size=320, or names new "
        "labelled images: --config.data.test_list=FILE (a list, or a .csv), --config.data.root=DIR (a folder for each "
        "class), --config.data.file=FILE.npz; classes are found by their names"
    )
    evaluate.add_argument("--workdir", required=True, metavar="DIR", type=_directory)
    evaluate.add_argument("--split", default="test", choices=("validation", "test"))
    evaluate.add_argument("--checkpoint", default="last", choices=("last", "best"))
    evaluate.add_argument(
        "--out",
        metavar="DIR",
        type=_local_directory,
        help="write classes.csv, confusion.csv, predictions.csv and evaluation.json",
    )
    evaluate.add_argument(
        "--top",
        type=_up_to(10**6),
        default=5,
        metavar="K",
        help="classes of each image in predictions.csv (5)",
    )
    predict = add("predict", "Write a trained run's predictions for images in files, folders or arrays.")
    predict.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files; folders, searched whole; an .npz with images; an .npy"
    )
    predict.add_argument(
        "--on-bad-image",
        default="error",
        choices=("error", "skip"),
        help="skip leaves out files that cannot be read, and says which",
    )
    predict.add_argument("--workdir", required=True, metavar="DIR", type=_directory)
    predict.add_argument("--out", required=True, metavar="FILE", help="a .csv or .jsonl")
    predict.add_argument("--top", type=_up_to(10**6), default=1, metavar="K", help="as many classes of each image")
    predict.add_argument("--checkpoint", default="last", choices=("last", "best"))
    report = add("report", "Compare runs: one table and its plots.")
    report.add_argument(
        "directories", nargs="+", metavar="DIR", type=_local_directory, help="work directories, or folders of them"
    )
    report.add_argument(
        "--out", metavar="DIR", type=_local_directory, help="where report.md goes (default: the DIR, if there is one)"
    )
    compiles = add("compile", "Say what a config needs of a TPU slice, without a TPU and without the data.")
    compiles.epilog = train.epilog
    compiles.add_argument("--config", required=True, metavar="FILE", help="as for train")
    compiles.add_argument("--topology", required=True, metavar="SLICE", help="as JAX names it, such as v5e:4x8")
    compiles.add_argument(
        "--classes", type=_up_to(10**6), metavar="C", help="classes, where the config does not say it"
    )
    compiles.add_argument("--images", type=_up_to(10**10), metavar="N", help="training images, likewise")
    compiles.add_argument("--image_size", type=_up_to(4096), metavar="SIDE", help="side in pixels, likewise")
    compiles.add_argument("--save", metavar="FILE", type=pathlib.Path, help="also write the figures as JSON")
    datasets = add("datasets", "List the data sources and whether each is ready.")
    datasets.add_argument(
        "--data_dir", metavar="DIR", type=_directory, help="a TFDS folder (default: CBJAX_DATA_DIR, or TFDS's own)"
    )

    options, rest = parser.parse_known_args(arguments)
    overrides = []
    for argument in rest:
        if options.name not in ("train", "sweep", "compile", "eval") or not argument.startswith("--config."):
            commands.choices[options.name].error(f"unrecognized argument: {argument}")
        if "=" not in argument:
            commands.choices[options.name].error(f"{argument} needs its value behind an equals sign: {argument}=VALUE")
        overrides.append(argument.removeprefix("--config."))
    _check_processes(options, commands.choices[options.name].error)
    if options.name == "sweep" and options.mode == "loop" and options.group_size is not None:
        commands.choices["sweep"].error("--group-size is of runs that are trained at a time; --mode=loop has one")
    return options, overrides


class _Parser(argparse.ArgumentParser):
    """Shows control codes in what it was given."""

    def error(self, message):
        super().error(visible(message))


def _up_to(most):
    """Returns the reader of a whole number from 1 to `most`; more is a slip, which would take all memory or time."""

    def read(text):
        # More than 18 digits are not read: Python refuses some thousands of them in words of its own.
        if not re.fullmatch(r"\d{1,18}", text) or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}; got {show(text)}")
        return int(text)

    return read


def _shard(text):
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, such as 1/4; got {show(text)}")
    return int(match[1]), int(match[2])


def _add_processes(command):
    group = command.add_argument_group("several processes, on one machine or many; each runs this command")
    group.add_argument(
        "--distributed", choices=("auto",), help="Cloud TPU, Slurm or Kubernetes say who the processes are"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="or say it: where the first process can be reached")
    group.add_argument("--processes", type=_up_to(10**5), metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")


def _check_processes(options, error):
    flags = {name: getattr(options, name, None) for name in ("coordinator", "processes", "process")}
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if 0 < len(missing) < len(flags):
        error(f"--coordinator, --processes and --process belong together; missing: {', '.join(missing)}")
    if not missing:
        if options.distributed:
            error("--distributed=auto and --coordinator say the same thing; give one of them")
        if not 0 <= options.process < options.processes:
            error(f"--process must be from 0 to --processes - 1; got {options.process} of {options.processes}")
        match = re.fullmatch(r".+:(\d{1,5})", options.coordinator)
        if not match or not 1 <= int(match[1]) <= 65535:
            error(f"--coordinator must be HOST:PORT with a port from 1 to 65535; got {show(options.coordinator)}")


def _directory(text):
    if not text:
        raise argparse.ArgumentTypeError("needs a directory; got nothing (an unset variable?)")
    # The shell leaves the tilde of --workdir=~/runs alone.
    try:
        return as_path(text)
    except PathError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _local_directory(text):
    if is_remote(text):
        raise argparse.ArgumentTypeError(f"must be a local folder (of a bucket, a copy of it); got {text}")
    return _directory(text)
