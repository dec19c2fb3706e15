"""The `cbjax` command. Whatever the user can mend is one message and exit status 2, without a traceback."""

import argparse
import pathlib
import re
import sys
from collections.abc import Sequence

from cbjax import config as configs
from cbjax import startup
from cbjax.config import ConfigError
from cbjax.storage import Place, as_path, is_remote

OUT_OF_MEMORY = (
    "a device ran out of memory: make its share of the batch smaller (batch_size, evaluation.batch_size; or "
    "optim.accumulation, which keeps the batch), or use model.remat=true or model.dtype=bfloat16"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status.

    0; 1 if training diverged, or does not fit a TPU slice; 2 for a mistake; 74 if a connection broke; 128 + signal if
    stopped.
    """
    options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    # Imported when the command is known to be well formed: they take seconds.
    from cbjax.checkpoint import CheckpointError
    from cbjax.compile import CompileError
    from cbjax.data import DataError
    from cbjax.interrupts import Interrupted
    from cbjax.loop import NonFiniteLoss
    from cbjax.processes import ProcessError, device_failure, leave
    from cbjax.report import ReportError
    from cbjax.tpu import TopologyError
    from cbjax.workdir import WorkdirError

    mistakes = (CompileError, ConfigError, DataError, ProcessError, TopologyError, WorkdirError)
    try:
        return options.command(options, overrides)
    except (CheckpointError, ReportError, *mistakes) as error:
        print(f"cbjax {options.name}: {error}", file=sys.stderr)
        leave(2)
        return 2
    except OSError as error:  # a full disk, a file in the place of a folder, no permission
        print(f"cbjax {options.name}: {error.filename or 'the disk'}: {error.strerror or error}", file=sys.stderr)
        # A connection that broke may hold at the next attempt.
        status = 74 if isinstance(error, ConnectionError | TimeoutError) else 2
        leave(status)
        return status
    except NonFiniteLoss as error:
        print(f"cbjax {options.name}: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"cbjax {options.name}: {stop}", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print(f"cbjax {options.name}: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        failure = device_failure(error)
        if failure is not None and "RESOURCE_EXHAUSTED" in str(failure):
            print(f"cbjax {options.name}: {OUT_OF_MEMORY}\n  {str(failure).splitlines()[0]}", file=sys.stderr)
            leave(2)
            return 2
        # Behind a broken connection is another process's end, which JAX names when it aborts this one; any other
        # failure is this process's own, and the others should hear of it at once.
        if failure is None:
            leave(70, error)
        raise


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="cbjax",
        description="Train long-tailed classifiers with class-balanced and difficulty-balanced losses.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name, function, text):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(command=function)
        return command

    train = add("train", _train, "Train one run, or go on with it, and report on it.")
    sweep = add("sweep", _sweep, "Train a list of runs, skip finished ones, and report on all.")
    for command in (train, sweep):
        command.add_argument(
            "--config",
            required=True,
            metavar="FILE",
            help="a file, or the name of one that cbjax brings, such as digits_lt",
        )
        command.add_argument(
            "--workdir",
            required=True,
            metavar="DIR",
            type=_directory if command is train else _local_directory,
            help="where everything is kept; call again to resume",
        )
        command.epilog = "--config.KEY=VALUE changes a key, such as --config.data.imbalance=50"
        _add_processes(command)
    train.add_argument("--extend", action="store_true", help="allow num_epochs to be larger than the work directory's")
    train.add_argument(
        "--profile", type=_positive, default=0, metavar="STEPS", help="write a trace of so many steps to DIR/profile"
    )
    evaluate = add("eval", _eval, "Evaluate a trained run on one of its splits.")
    evaluate.epilog = "--config.KEY=VALUE changes what can differ at test time, such as --config.data.image_size=320"
    evaluate.add_argument("--workdir", required=True, metavar="DIR", type=_directory)
    evaluate.add_argument("--split", default="test", choices=("validation", "test"))
    evaluate.add_argument("--checkpoint", default="last", choices=("last", "best"))
    predict = add("predict", _predict, "Write a trained run's predictions for a folder of images or an .npz.")
    predict.add_argument("images", metavar="IMAGES", help="a folder, searched whole, or an .npz with images")
    predict.add_argument("--workdir", required=True, metavar="DIR", type=_directory)
    predict.add_argument("--out", required=True, metavar="FILE", help="a .csv or .jsonl")
    predict.add_argument("--top", type=_positive, default=1, metavar="K", help="as many classes of each image")
    predict.add_argument("--checkpoint", default="last", choices=("last", "best"))
    report = add("report", _report, "Compare runs: one table and its plots.")
    report.add_argument(
        "directories", nargs="+", metavar="DIR", type=_local_directory, help="work directories, or folders of them"
    )
    report.add_argument(
        "--out", metavar="DIR", type=_local_directory, help="where report.md goes (default: the DIR, if there is one)"
    )
    compiles = add("compile", _compile, "Say what a config needs of a TPU slice, without a TPU and without the data.")
    compiles.epilog = train.epilog
    compiles.add_argument("--config", required=True, metavar="FILE", help="as for train")
    compiles.add_argument("--topology", required=True, metavar="SLICE", help="as JAX names it, such as v5e:4x8")
    compiles.add_argument("--classes", type=_positive, metavar="C", help="classes, where the config does not say it")
    compiles.add_argument("--images", type=_positive, metavar="N", help="training images, likewise")
    compiles.add_argument("--image_size", type=_positive, metavar="SIDE", help="side in pixels, likewise")
    compiles.add_argument("--save", metavar="FILE", type=pathlib.Path, help="also write the figures as JSON")
    datasets = add("datasets", _datasets, "List the data sources and whether each is ready.")
    datasets.add_argument(
        "--data_dir", metavar="DIR", type=_directory, help="a TFDS folder (default: CBJAX_DATA_DIR, or TFDS's own)"
    )

    options, rest = parser.parse_known_args(arguments)
    overrides = []
    for argument in rest:
        if options.command not in (_train, _sweep, _compile, _eval) or not argument.startswith("--config."):
            commands.choices[options.name].error(f"unrecognized argument: {argument}")
        if "=" not in argument:
            commands.choices[options.name].error(f"{argument} needs its value behind an equals sign: {argument}=VALUE")
        overrides.append(argument.removeprefix("--config."))
    _check_processes(options, commands.choices[options.name].error)
    return options, overrides


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text}")
    return int(text)


def _add_processes(command):
    group = command.add_argument_group("several processes, on one machine or many; each runs this command")
    group.add_argument(
        "--distributed", choices=("auto",), help="Cloud TPU, Slurm or Kubernetes say who the processes are"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="or say it: where the first process can be reached")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
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
        if not re.fullmatch(r".+:\d+", options.coordinator):
            error(f"--coordinator must be HOST:PORT; got {options.coordinator}")


def _directory(text):
    if not text:
        raise argparse.ArgumentTypeError("needs a directory; got nothing (an unset variable?)")
    # The shell leaves the tilde of --workdir=~/runs alone.
    return as_path(text)


def _local_directory(text):
    if is_remote(text):
        raise argparse.ArgumentTypeError(f"must be a local folder (of a bucket, a copy of it); got {text}")
    return _directory(text)


def _train(options, overrides):
    config = configs.load(options.config, overrides)
    _start(config.deterministic, options)
    from cbjax import processes
    from cbjax.run import train

    train(config, options.workdir, extend=options.extend, profile=options.profile)
    if processes.is_first():
        place = Place(options.workdir)
        _print_report([place.files], options.workdir / "report.md")
    return 0


def _sweep(options, overrides):
    runs = configs.load_sweep(options.config, overrides)
    _start(any(config.deterministic for _, config in runs), options)
    from cbjax import processes
    from cbjax.sweep import sweep

    path, failed = sweep(runs, options.workdir)
    if processes.is_first():
        _print_report([path.parent / name for name, _ in runs], path)
    return 1 if failed else 0


def _eval(options, overrides):
    from cbjax import config_test_time
    from cbjax import workdir as workdirs

    config_test_time.check_keys(overrides)
    place = Place(options.workdir)
    _start(workdirs.read_config(place.files).deterministic)
    from cbjax.run import evaluate

    found = evaluate(options.workdir, split=options.split, checkpoint=options.checkpoint, overrides=overrides)
    for name, value in found.items():
        print(f"{options.split}/{name} {value:.6g}")
    return 0


def _predict(options, overrides):
    from cbjax import workdir as workdirs

    place = Place(options.workdir)
    _start(workdirs.read_config(place.files).deterministic)
    from cbjax.predictions import predict

    count = predict(options.workdir, options.images, options.out, checkpoint=options.checkpoint, top=options.top)
    print(f"predictions of {count} images: {options.out}")
    return 0


def _start(deterministic, options=None):
    startup.set_flags(deterministic)
    startup.keep_compiled_programs()
    if options is not None and (options.distributed or options.coordinator):
        from cbjax import processes

        processes.start(options.coordinator, options.processes, options.process)


def _report(options, overrides):
    from cbjax.report import report

    if options.out is None and len(options.directories) > 1:
        raise ConfigError("several directories: --out=DIR says where the report goes")
    out = options.out or options.directories[0]
    _print_report(options.directories, report(options.directories, out))
    return 0


def _compile(options, overrides):
    import json

    from rich.console import Console

    from cbjax import compile_table
    from cbjax.compile import compile_for

    print(f"compiling for {options.topology}: a deep network takes minutes", file=sys.stderr, flush=True)
    figures = compile_for(
        options.config,
        overrides,
        options.topology,
        num_classes=options.classes,
        num_images=options.images,
        image_size=options.image_size,
    )
    if options.save is not None:
        options.save.write_text(json.dumps(figures, indent=1) + "\n")
    print(compile_table.headline(figures))
    Console(soft_wrap=True).print(compile_table.table(figures))
    print(*compile_table.closing(figures), sep="\n")
    return 0 if figures["fits"] else 1


def _datasets(options, overrides):
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cbjax.data.sources import describe

    table = Table("data.name", "images", "ready", "where, or how to prepare it", box=None)
    for row in describe(options.data_dir):
        # As text: rich would take the brackets of cbjax[prepare] for its own marks.
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(soft_wrap=True).print(table)
    return 0


def _print_report(directories, path):
    from rich.console import Console

    from cbjax.report import table_for_terminal

    Console().print(table_for_terminal(directories))
    print(f"report: {path}")
