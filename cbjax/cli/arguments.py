"""Defines and reads the arguments of the `cbjax` command."""

import argparse
import re
from collections.abc import Mapping, Sequence

from cbjax import __version__
from cbjax.cli import completion, frames, key_list, landscape, report
from cbjax.cli.landscape import CHECKPOINT
from cbjax.config import methods
from cbjax.config.parts import STAGES
from cbjax.config.schema import KEYS, show
from cbjax.config.unknown import keys_meant
from cbjax.host.storage import PathError, as_path, is_remote
from cbjax.host.text import visible

# Commands that take --config.KEY=VALUE.
WITH_KEYS = ("train", "stage2", "sweep", "compile", "eval", "landscape", "config")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the arguments of the command. For a mistake argparse prints a message and exits with status 2.

    Returns:
      The options, with the command's `name`, and the overrides "KEY=VALUE" of its config.
    """
    parser, choices = make_parser()
    options, rest = parser.parse_known_args(arguments)
    error = choices[options.name].error
    overrides = []
    for argument in rest:
        if options.name not in WITH_KEYS or not argument.startswith("--config."):
            hint = _as_key(argument) if options.name in WITH_KEYS else ""
            error(f"unrecognized argument: {argument}{hint}")
        if "=" not in argument:
            error(f"{argument} needs a value after an equals sign: {argument}=VALUE")
        overrides.append(argument.removeprefix("--config."))
    _check_processes(options, error)
    if options.name == "landscape":
        landscape.check(options, error)
    if options.name == "train" and options.workdir is None and not options.dry_run:
        error("the following arguments are required: --workdir (or --dry-run)")
    if options.name == "eval" and (options.open is None) != (options.open_below is None):
        error("--open=IMAGES and --open-below=P belong together")
    if options.name == "sweep" and options.mode == "loop" and options.group_size is not None:
        error("--group-size is the number of runs at a time; --mode=loop trains one")
    return options, overrides


def make_parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Returns the parser, and the parser of each command by its name."""
    parser = _Parser(
        prog="cbjax",
        description="Train long-tailed classifiers with class-balanced and difficulty-balanced losses.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cbjax {__version__}", help="print the version")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name, text):
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    train = add("train", "Train one run, or go on with it, and report on it.")
    stage2 = add(
        "stage2", "Train, normalise or replace the head of a finished run, or train OLTR from it; or go on with it."
    )
    sweep = add("sweep", "Train a list of runs, skip finished ones, and report on all.")
    for command in (train, sweep):
        command.add_argument(
            "--config",
            required=True,
            metavar="FILE",
            help="a file, or the name of a config that cbjax brings: digits_lt, an example; own_images, for your images"
            if command is train
            else "a file, or the name of a sweep that cbjax brings, such as digits_lt",
        )
        command.add_argument(
            "--workdir",
            metavar="DIR",
            type=_directory if command is train else _local_directory,
            help="where everything is kept; call again to resume",
        )
        command.epilog = (
            "--config.KEY=VALUE changes a key, such as --config.data.imbalance=50; --config.method=NAME chooses a "
            "method; `cbjax config` lists keys and methods"
        )
        _add_processes(command)
    stage2.add_argument("--from", dest="source", required=True, metavar="DIR", type=_directory, help="the finished run")
    stage2.add_argument(
        "--method",
        required=True,
        choices=STAGES[1:],
        help="crt: a new head; lws: a scale for each class; tau: the head, normalised; ncm: nearest class mean; oltr: "
        "attention and a memory of class means, and the network trains on",
    )
    stage2.add_argument("--workdir", required=True, metavar="DIR", type=_directory, help="as for train")
    stage2.epilog = train.epilog
    _add_processes(stage2)
    for command in (train, stage2):
        command.add_argument(
            "--extend", action="store_true", help="allow num_epochs to be larger than the work directory's"
        )
        command.add_argument(
            "--profile",
            type=_up_to(10**5),
            default=0,
            metavar="STEPS",
            help="write a trace of STEPS steps to DIR/profile",
        )
        command.add_argument(
            "--dry-run", action="store_true", help="list the keys that are not at their defaults; train nothing"
        )
    sweep.add_argument("--dry-run", action="store_true", help="list the runs and what they need; train none")
    sweep.add_argument(
        "--mode",
        default="auto",
        choices=("auto", "loop", "vmap", "devices"),
        help="one run after another, several on a device, or several on each device (on a CPU: core); auto measures",
    )
    sweep.add_argument("--group-size", type=_up_to(10**5), metavar="K", help="runs at a time (auto: at most)")
    sweep.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="train every N-th run from the I-th")
    sweep.add_argument(
        "--results", metavar="FILE", type=_local_file, help="CSV of finished runs (default: DIR/results.csv)"
    )
    evaluate = add("eval", "Evaluate a trained run on one of its splits, or on new labelled images.")
    evaluate.epilog = (
        "--config.KEY=VALUE changes a key that may differ at test time, such as --config.data.image_size=320, or names "
        "new labelled images: --config.data.test_list=FILE (a list, or a .csv), --config.data.root=DIR (a folder for "
        "each class), --config.data.file=FILE.npz; classes are found by their names"
    )
    evaluate.add_argument("--workdir", required=True, metavar="DIR", type=_directory, help="the run")
    evaluate.add_argument(
        "--split", default="test", choices=("validation", "test"), help="which of the run's own images (test)"
    )
    evaluate.add_argument("--checkpoint", default="last", choices=("last", "best"), help=CHECKPOINT)
    evaluate.add_argument(
        "--out",
        metavar="DIR",
        type=_local_directory,
        help="write classes.csv, confusion.csv, predictions.csv and evaluation.json",
    )
    evaluate.add_argument(
        "--auc",
        action="store_true",
        help="also the areas under each class's ROC and precision-recall curve, against all other classes",
    )
    evaluate.add_argument(
        "--calibrate",
        choices=("temperature", "thresholds"),
        help="fit a temperature, or thresholds of the classes, on the run's validation images, and show the figures "
        "before and after; --out=DIR writes it to calibration.json, for predict",
    )
    evaluate.add_argument(
        "--top",
        type=_up_to(10**6),
        default=5,
        metavar="K",
        help="number of classes for each image in predictions.csv (5)",
    )
    predict = add("predict", "Write a trained run's predictions for images in files, folders or arrays.")
    predict.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files; folders of images; an .npz with images; an .npy"
    )
    predict.add_argument(
        "--on-bad-image",
        default="error",
        choices=("error", "skip"),
        help="skip leaves out files that cannot be read, and prints which",
    )
    predict.add_argument("--workdir", required=True, metavar="DIR", type=_directory, help="the run")
    predict.add_argument("--out", required=True, metavar="FILE", help="a .csv or .jsonl")
    predict.add_argument(
        "--top", type=_up_to(10**6), default=1, metavar="K", help="number of classes for each image (1)"
    )
    predict.add_argument("--checkpoint", default="last", choices=("last", "best"), help=CHECKPOINT)
    predict.add_argument(
        "--calibration",
        metavar="FILE",
        type=_local_file,
        help="calibration.json of eval --calibrate: a temperature changes the probabilities, thresholds the order",
    )
    evaluate.add_argument(
        "--open",
        metavar="IMAGES",
        help="images of other classes: also their share that is answered open, and the F-measure (OLTR)",
    )
    for command in (evaluate, predict, stage2):
        command.add_argument(
            "--trust-code",
            action="store_true",
            help="run the work directory's own copies of a user's network and loss, which can do anything that you can",
        )
    for command in (evaluate, predict):
        command.add_argument(
            "--open-below",
            type=_share,
            metavar="P",
            help="an image whose largest probability is below P is open, of no known class; OLTR has 0.1 for 1000 "
            "classes" + (" (predict adds a column)" if command is predict else ""),
        )
    landscapes = add("landscape", "Measure and draw the loss around a run, for frequent and rare classes.")
    landscape.add_arguments(landscapes, _directory, _up_to)
    report.add_arguments(add("report", "Compare runs: one table and its plots."), _local_directory)
    compiles = add("compile", "Find out whether a config fits a TPU slice, without a TPU and without the data.")
    compiles.epilog = train.epilog
    compiles.add_argument("--config", required=True, metavar="FILE", help="as for train")
    compiles.add_argument("--topology", required=True, metavar="SLICE", help="JAX's name of the slice, such as v5e:4x8")
    compiles.add_argument(
        "--classes", type=_up_to(10**6), metavar="C", help="number of classes, if the config does not say it"
    )
    compiles.add_argument("--images", type=_up_to(10**10), metavar="N", help="training images, likewise")
    compiles.add_argument("--image_size", type=_up_to(4096), metavar="SIDE", help="side in pixels, likewise")
    compiles.add_argument("--save", metavar="FILE", type=_local_file, help="also write the figures as JSON")
    datasets = add("datasets", "List the data sources and whether each is ready; or extract the frames of videos.")
    datasets.add_argument(
        "--data_dir", metavar="DIR", type=_directory, help="a TFDS folder (default: CBJAX_DATA_DIR, or TFDS's own)"
    )
    frames.add_arguments(datasets, _local_directory, _up_to)
    key_list.add_arguments(add("config", "List the keys of a config: what they do and their values."))
    completion.add_arguments(add("completion", "Print what makes a shell complete this command at TAB."))
    return parser, commands.choices


def _as_key(argument: str) -> str:
    """Returns the end of the message for "--seed=1" or "--lr=1": how a key is given, if the argument is one."""
    key = argument.removeprefix("--").partition("=")[0]
    begin = "; keys of the config begin with --config."
    if key in KEYS or key == methods.KEY:
        return f"{begin}: --config.{argument.removeprefix('--')}"
    meant = keys_meant(key, KEYS)
    return f"{begin}; did you mean {meant}?" if meant else ""


class _Parser(argparse.ArgumentParser):
    """Makes control codes visible in messages, and says where the commands are listed."""

    def error(self, message):
        hint = "; cbjax --help lists the commands" if message.endswith("COMMAND") else ""
        super().error(visible(message) + hint)


def _up_to(most):
    """Returns a reader of whole numbers from 1 to `most`; more must be a slip, and would take all memory or time."""

    def read(text):
        # At most 18 digits: Python refuses thousands of them with a message of its own.
        if not re.fullmatch(r"\d{1,18}", text) or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}; got {show(text)}")
        return int(text)

    return read


def _share(text):
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 1; got {show(text)}")
    return share


def _shard(text):
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, such as 1/4; got {show(text)}")
    return int(match[1]), int(match[2])


def _add_processes(command):
    group = command.add_argument_group("several processes, on one machine or many; each runs this command")
    group.add_argument("--distributed", choices=("auto",), help="take all this from Cloud TPU, Slurm or Kubernetes")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="or give it: where process 0 can be reached")
    group.add_argument("--processes", type=_up_to(10**5), metavar="N", help="number of processes")
    group.add_argument("--process", type=int, metavar="I", help="index of this process, from 0")


def _check_processes(options, error):
    flags = {name: getattr(options, name, None) for name in ("coordinator", "processes", "process")}
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if 0 < len(missing) < len(flags):
        error(f"--coordinator, --processes and --process belong together; missing: {', '.join(missing)}")
    if not missing:
        if options.distributed:
            error("--distributed=auto and --coordinator say the same thing; give only one")
        if not 0 <= options.process < options.processes:
            error(f"--process must be from 0 to --processes - 1; got {options.process} of {options.processes}")
        match = re.fullmatch(r".+:(\d{1,5})", options.coordinator)
        if not match or not 1 <= int(match[1]) <= 65535:
            error(f"--coordinator must be HOST:PORT with a port from 1 to 65535; got {show(options.coordinator)}")


def _directory(text):
    if not text:
        raise argparse.ArgumentTypeError("needs a directory; got nothing (an unset variable?)")
    # as_path resolves the tilde, which the shell does not in --workdir=~/runs.
    try:
        return as_path(text)
    except PathError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _local_directory(text):
    if is_remote(text):
        raise argparse.ArgumentTypeError(f"must be a local folder (copy a bucket first); got {text}")
    return _directory(text)


def _local_file(text):
    if not text or is_remote(text):
        raise argparse.ArgumentTypeError(f"must be a local file; got {text or 'nothing (an unset variable?)'}")
    return _directory(text)
