"""The `cbjax` command. Whatever the user can mend is one message and exit status 2, without a traceback."""

import os
import sys
from collections.abc import Sequence

from cbjax import config as configs
from cbjax import startup, sweep_file
from cbjax.arguments import parse
from cbjax.config import ConfigError
from cbjax.output import guarded, say
from cbjax.storage import PathError, Place
from cbjax.text import one_line

OUT_OF_MEMORY = (
    "a device ran out of memory: make its share of the batch smaller (batch_size, evaluation.batch_size; or "
    "optim.accumulation, which keeps the batch), or use model.remat=true or model.dtype=bfloat16"
)

FILED = ("train", "sweep", "predict", "report")  # what these do is in files; they print it, too


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status.

    0; 1 if training diverged, or does not fit a TPU slice; 2 for a mistake; 73 if the disk is full; 74 if a connection
    broke; 128 + signal if stopped.
    """
    with guarded() as out:
        options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
        try:
            status = _run(options, overrides)
        except KeyboardInterrupt:  # also while modules and the configuration are read
            say(f"cbjax {options.name}: stopped", error=True)
            status = 130
        out.flush()
        if out.error is None or isinstance(out.error, BrokenPipeError):  # the reader had enough, as `head -1`
            return status
        reason = getattr(out.error, "strerror", None) or out.error
        say(f"cbjax {options.name}: what it prints could not be written: {reason}", error=True)
        from cbjax.writers import is_full

        return status or (0 if options.name in FILED else 73 if is_full(out.error) else 2)


def _run(options, overrides):
    try:
        if options.name in READERS:  # before what takes seconds
            options.read = READERS[options.name](options.config, overrides)
        startup.check_environment()
    except ConfigError as error:
        say(f"cbjax {options.name}: {error}", error=True)
        return 2
    # Imported when the command is known to be well formed: they take seconds.
    from cbjax.checkpoint import CheckpointError
    from cbjax.compile import CompileError
    from cbjax.data import DataError
    from cbjax.interrupts import Interrupted
    from cbjax.processes import ProcessError, device_failure, leave, meet_to_tell
    from cbjax.report import ReportError
    from cbjax.rows import RowsError
    from cbjax.tpu import TopologyError
    from cbjax.types import NonFiniteLoss
    from cbjax.workdir import WorkdirError
    from cbjax.writers import is_full

    mistakes = (RowsError, CompileError, ConfigError, DataError, PathError, ProcessError, TopologyError, WorkdirError)
    try:
        return COMMANDS[options.name](options, overrides)
    except (CheckpointError, ReportError, *mistakes) as error:
        say(f"cbjax {options.name}: {error}", error=True)
        status = getattr(error, "status", 2)
        meet_to_tell(options, error)
        leave(status, error)
        return status
    except OSError as error:  # a full disk, a file in the place of a folder, no permission
        say(f"cbjax {options.name}: {_disk_error(error, options.name)}", error=True)
        # A connection that broke may hold at the next attempt.
        status = 73 if is_full(error) else 74 if isinstance(error, ConnectionError | TimeoutError) else 2
        leave(status, error)
        return status
    except MemoryError as error:
        say(f"cbjax {options.name}: this machine ran out of memory{f': {error}' if str(error) else ''}", error=True)
        leave(2, error)
        return 2
    except NonFiniteLoss as error:
        say(f"cbjax {options.name}: {error}", error=True)
        return 1
    except Interrupted as stop:
        say(f"cbjax {options.name}: {stop}", error=True)
        return 128 + stop.signum
    except Exception as error:
        failure = device_failure(error)
        if failure is not None and "RESOURCE_EXHAUSTED" in str(failure):
            say(f"cbjax {options.name}: {OUT_OF_MEMORY}\n  {str(failure).splitlines()[0]}", error=True)
            leave(2, error)
            return 2
        leave(70, error, trace=True)
        raise


def _disk_error(error, command):
    from cbjax.writers import FULL

    said = f"{error.filename or 'the disk'}: {error.strerror or error}"
    if error.errno not in FULL:
        return said
    goes_on = "goes on from the last checkpoint" if command in ("train", "sweep") else "does it"
    return f"could not write {said}; {FULL[error.errno]}, then the same command {goes_on}"


def _train(options, overrides):
    config = options.read
    _start(config.deterministic, options)
    from cbjax import processes
    from cbjax.run import train

    train(config, options.workdir, extend=options.extend, profile=options.profile)
    if processes.is_first():
        place = Place(options.workdir)
        if (place.files / "report.md").exists():
            _print_report([place.files], options.workdir / "report.md")
    return 0


def _sweep(options, overrides):
    from cbjax import plan

    described, runs = options.read
    if options.dry_run:
        return _list_runs(options, runs, described.sizes)
    if options.workdir is None:
        raise ConfigError("needs --workdir=DIR, where everything is kept (or --dry-run)")
    # A sweep that was begun otherwise would go on over other devices, and to other last bits.
    mode = plan.asked_mode(options.workdir, options.shard, options.mode)
    if mode in ("auto", "devices") and not (options.distributed or options.coordinator):
        startup.make_cores_devices()
    _start(any(run.config.deterministic for run in runs), options)
    from cbjax import processes
    from cbjax.sweep import sweep
    from cbjax.writers import FULL

    path, failed = sweep(
        sweep_file.sweep_name(options.config, overrides),
        described,
        runs,
        options.workdir,
        mode=options.mode,
        group_size=options.group_size,
        part=options.shard,
        results=options.results,
    )
    if processes.is_first() and path is not None:
        _print_report([path.parent], path)
    full = any(os.strerror(code) in error for error in failed.values() for code in FULL)
    return 73 if full else 1 if failed else 0


def _list_runs(options, runs, sizes):
    from cbjax import cost
    from cbjax.abstract_data import UnknownSizes
    from cbjax.data import DataError

    mine = sweep_file.shard(runs, *options.shard)
    for run in mine:
        say(run.name)
    # Beside the list, which may be read by a program.
    try:
        say(cost.describe(cost.run_costs([run.config for run in mine], sizes)), error=True)
    except UnknownSizes:
        say(
            "what it takes is not known before the data are read, unless the sweep's file gives "
            "Sweep(…, sizes={'num_classes': …, 'num_images': …, 'image_size': …})",
            error=True,
        )
    except (ConfigError, DataError) as error:
        say(f"what it takes could not be told: {error}", error=True)
    return 0


def _eval(options, overrides):
    from cbjax import config_test_time, eval_files
    from cbjax import workdir as workdirs

    config_test_time.check_keys(overrides)
    if options.out is not None:
        eval_files.check_out(options.out)
    place = Place(options.workdir)
    _start(workdirs.read_config(place.files).deterministic)
    from cbjax.restore import examine

    found = examine(options.workdir, split=options.split, checkpoint=options.checkpoint, overrides=overrides)
    for line in eval_files.figures(found, options.split):
        say(line)
    _print_table(lambda width: eval_files.class_table(found), whole=True)
    if options.out is not None:
        names = eval_files.write(found, options.out, options.top)
        say(f"{', '.join(names)}: {options.out}")
    return 0


def _predict(options, overrides):
    from cbjax import workdir as workdirs

    place = Place(options.workdir)
    _start(workdirs.read_config(place.files).deterministic)
    from cbjax.predictions import predict

    count, skipped = predict(
        options.workdir,
        options.images,
        options.out,
        checkpoint=options.checkpoint,
        top=options.top,
        on_bad_image=options.on_bad_image,
    )
    left_out = f", {skipped} skipped" if skipped else ""
    say(f"predictions of {count} images{left_out}: {options.out}")
    return 0


def _start(deterministic, options=None):
    startup.set_flags(deterministic)
    startup.keep_compiled_programs()
    startup.print_errors_once()
    if options is not None and (options.distributed or options.coordinator):
        from cbjax import processes

        processes.start(options.coordinator, options.processes, options.process)
    startup.check_devices()


def _report(options, overrides):
    from cbjax.report import has_table, report, report_sweep

    if options.out is None and len(options.directories) > 1:
        raise ConfigError("several directories: --out=DIR says where the report goes")
    out = options.out or options.directories[0]
    if len(options.directories) == 1 and has_table(options.directories[0]):
        _print_report(options.directories, report_sweep(options.directories[0], out))
    else:
        _print_report(options.directories, report(options.directories, out))
    return 0


def _compile(options, overrides):
    import json

    from rich.console import Console

    from cbjax import compile_table
    from cbjax.compile import compile_for
    from cbjax.writers import replace

    say(f"compiling for {options.topology}: a deep network takes minutes", error=True)
    figures = compile_for(
        options.config,
        overrides,
        options.topology,
        num_classes=options.classes,
        num_images=options.images,
        image_size=options.image_size,
    )
    if options.save is not None:
        replace(options.save, (json.dumps(figures, indent=1) + "\n").encode())
    say(compile_table.headline(figures))
    Console(soft_wrap=True).print(compile_table.table(figures))
    say("\n".join(compile_table.closing(figures)))
    return 0 if figures["fits"] else 1


def _datasets(options, overrides):
    from cbjax.data.sources import describe

    heads = ("data.name", "images", "ready", "where, or how to prepare it")
    rows = [heads, *([one_line(cell) for cell in row] for row in describe(options.data_dir))]
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    for row in rows:
        # A line is as long as its command, which is there to be copied.
        say("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
    return 0


def _print_report(directories, path):
    from cbjax.report import has_table, sweep_table_for_terminal, table_for_terminal

    if len(directories) == 1 and has_table(directories[0]):
        _print_table(lambda width: sweep_table_for_terminal(directories[0], width), whole=True)
    else:
        _print_table(lambda width: table_for_terminal(directories))
    say(f"report: {path}")


def _print_table(make, whole=False):
    """Prints the table that is made for the terminal's width; a whole one is never narrower than its words."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    try:
        table = make(console.width)
        if whole:
            # A line that is too long for the terminal is read more easily than figures cut in their middle.
            least = Measurement.get(console, console.options.update(max_width=10_000), table).minimum
            console = Console(width=max(console.width, least))
        console.print(table)
    except Exception as error:  # the figures are on disk
        say(f"the table could not be printed: {error!r}", error=True)


READERS = {"train": configs.load, "sweep": sweep_file.load}
COMMANDS = {
    "train": _train,
    "sweep": _sweep,
    "eval": _eval,
    "predict": _predict,
    "report": _report,
    "compile": _compile,
    "datasets": _datasets,
}
