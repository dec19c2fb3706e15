"""The commands of `cbjax`, a function each: it calls other rooms and prints what they return."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from cbjax import config as configs
from cbjax.cli import completion, frames, key_list, landscape, startup
from cbjax.config import ConfigError
from cbjax.config.reading import complete
from cbjax.config.schema import show
from cbjax.host.output import say
from cbjax.host.storage import Place
from cbjax.host.text import one_line
from cbjax.sweeps import file as sweep_file


def _train(options, overrides):
    config = options.read
    if options.dry_run:
        key_list.as_given(config, overrides)
        return 0
    _start(config.deterministic, options)
    from cbjax.parallel import processes
    from cbjax.training.run import train

    train(config, options.workdir, extend=options.extend, profile=options.profile)
    if processes.is_first():
        place = Place(options.workdir)
        if (place.files / "report.md").exists():
            _print_report([place.files], options.workdir / "report.md")
    return 0


def _stage2(options, overrides):
    from cbjax.config import evaluation, stages
    from cbjax.workdir import files as workdirs
    from cbjax.workdir import own_code

    files, source = Place(options.source).files, str(options.source)
    first = workdirs.read_config(files)
    second = stages.second_stage(values := complete(first), options.method, source)
    others = {key for key in values if second[key] != values[key]} | {*configs.read_overrides(overrides)}
    first = own_code.allow(files, first, options.trust_code, others)
    options.read = configs.second_stage(first, options.method, source, overrides)
    _, what = configs.difference(first, options.read)
    shown = [f"{key}={show(evaluation.value_of(options.read, key))}" for key in what if key != "stage.checksum"]
    say(f"other than in {options.source}: {', '.join(shown)}")
    return _train(options, overrides)


def _sweep(options, overrides):
    from cbjax.sweeps import plan

    described, runs = options.read
    if options.dry_run:
        return _list_runs(options, runs, described.sizes)
    if options.workdir is None:
        raise ConfigError("needs --workdir=DIR, where everything is kept (or --dry-run)")
    # The mode must be known now: a sweep must go on with the devices that it began with, or last bits would differ.
    mode = plan.asked_mode(options.workdir, options.shard, options.mode)
    if mode in ("auto", "devices") and not (options.distributed or options.coordinator):
        startup.make_cores_devices()
    _start(any(run.config.deterministic for run in runs), options)
    from cbjax.host.writers import FULL
    from cbjax.parallel import processes
    from cbjax.sweeps.sweep import sweep

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
    from cbjax.data import DataError
    from cbjax.estimate import cost
    from cbjax.estimate.abstract_data import UnknownSizes

    mine = sweep_file.shard(runs, *options.shard)
    for run in mine:
        say(run.name)
    # To stderr, because a program may read the list.
    try:
        say(cost.describe(cost.run_costs([run.config for run in mine], sizes)), error=True)
    except UnknownSizes:
        say(
            "the cost is not known before the data are read, unless the sweep's file gives "
            "Sweep(…, sizes={'num_classes': …, 'num_images': …, 'image_size': …})",
            error=True,
        )
    except (ConfigError, DataError) as error:
        say(f"the cost could not be computed: {error}", error=True)
    return 0


def _eval(options, overrides):
    from cbjax.cli import calibration_file, eval_files, open_set
    from cbjax.config import evaluation
    from cbjax.workdir import data_facts
    from cbjax.workdir import files as workdirs

    evaluation.check_keys(overrides)
    if options.out is not None:
        eval_files.check_out(options.out)
    if options.open is not None:
        open_set.check(options.open)
    place = Place(options.workdir)
    config = workdirs.read_config(place.files)
    workdirs.tell_unfinished(place)
    if options.calibrate:
        calibration_file.check(data_facts.read(place.files), options.split)
    _start(config.deterministic)
    from cbjax.training import calibrate, scores
    from cbjax.training.restore import examine

    given = {"checkpoint": options.checkpoint, "trust_code": options.trust_code}
    found = examine(options.workdir, split=options.split, overrides=overrides, **given)
    if options.auc:
        found = scores.with_areas(found)
    if options.open is not None:
        found = open_set.with_open(found, options.workdir, options.open, options.open_below)
    fitted = None
    if options.calibrate:
        # Fitted on the run's own validation images, whatever it is measured on.
        own = overrides if found.own else evaluation.without_sources(overrides)
        fitted = calibrate.fit(
            options.calibrate, found, examine(options.workdir, split="validation", overrides=own, **given)
        )
        if fitted.calibration.thresholds is not None:
            found = calibrate.with_accuracy_after(found, fitted.calibration)
    if (meaning := scores.meaning(found.run)) is not None:
        say(meaning)
    for line in eval_files.figures(found, options.split):
        say(line)
    _print_table(lambda width: eval_files.class_table(found), whole=True)
    if fitted is not None:
        for line in calibration_file.lines(options.calibrate, fitted):
            say(line)
    if options.out is not None:
        names = eval_files.write(found, options.out, options.top)
        if fitted is not None:
            names.append(calibration_file.write(options.calibrate, fitted, found, options.out))
        say(f"{', '.join(names)}: {options.out}")
    return 0


def _landscape(options, overrides):
    from cbjax.config import evaluation
    from cbjax.workdir import files as workdirs

    evaluation.check_keys(overrides)
    config = workdirs.read_config(Place(options.source).files)
    workdirs.tell_unfinished(*map(Place, [options.source, *options.to]))
    # Points are independent, so each core measures its own.
    startup.make_cores_devices()
    _start(config.deterministic)
    return landscape.run(options, overrides)


def _predict(options, overrides):
    from cbjax.workdir import files as workdirs

    place = Place(options.workdir)
    config = workdirs.read_config(place.files)
    workdirs.tell_unfinished(place)
    _start(config.deterministic)
    from cbjax.cli.predictions import predict

    noun = "clips" if config.data.frames else "images"
    count, skipped = predict(
        options.workdir,
        options.images,
        options.out,
        checkpoint=options.checkpoint,
        top=options.top,
        on_bad_image=options.on_bad_image,
        trust_code=options.trust_code,
        calibration=options.calibration,
        open_below=options.open_below,
    )
    left_out = f", {skipped} skipped" if skipped else ""
    say(f"predictions of {count} {noun}{left_out}: {options.out}")
    return 0


def _start(deterministic, options=None):
    startup.set_flags(deterministic)
    startup.keep_compiled_programs()
    startup.print_errors_once()
    if options is not None and (options.distributed or options.coordinator):
        from cbjax.parallel import processes

        processes.start(options.coordinator, options.processes, options.process)
    startup.check_devices()


def _report(options, overrides):
    from cbjax.cli import report

    return report.run(options, _print_report)


def _compile(options, overrides):
    import json

    from rich.console import Console

    from cbjax.estimate import compile_table
    from cbjax.estimate.compile import compile_for
    from cbjax.host.writers import replace

    say(f"compiling for {options.topology}: a deep network takes minutes", error=True)
    figures = compile_for(
        options.config,
        overrides,
        options.topology,
        num_classes=options.classes,
        num_images=options.images,
        image_size=options.image_size,
        tell=lambda line: say(line, error=True),
    )
    if options.save is not None:
        replace(options.save, (json.dumps(figures, indent=1) + "\n").encode())
    say(compile_table.headline(figures))
    Console(soft_wrap=True).print(compile_table.table(figures))
    say("\n".join(compile_table.closing(figures)))
    return 0 if figures["fits"] else 1


def _datasets(options, overrides):
    if options.task == "frames":
        return frames.run(options)
    from cbjax.data.sources import describe

    heads = ("data.name", "images", "ready", "where, or how to prepare it")
    ready = {True: "yes", False: "no", None: "yours"}
    listed = [
        (one.name, "" if one.images is None else f"{one.images:,}", ready[one.ready], one.where_or_command)
        for one in describe(options.data_dir)
    ]
    rows = [heads, *([one_line(cell) for cell in row] for row in listed)]
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    for row in rows:
        # Lines are not cut, so that commands can be copied.
        say("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
    return 0


def _print_report(directories, path):
    from cbjax.report import has_table, sweep_table_for_terminal, table_for_terminal

    if len(directories) == 1 and not isinstance(directories[0], tuple) and has_table(directories[0]):
        _print_table(lambda width: sweep_table_for_terminal(directories[0], width), whole=True)
    else:
        _print_table(lambda width: table_for_terminal(directories))
    say(f"report: {path}")


def _print_table(make, whole=False):
    """Prints a table that is made for the terminal's width; with `whole`, it is at least as wide as its words."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    try:
        table = make(console.width)
        if whole:
            # Lines that are too long for the terminal are easier to read than figures cut in their middle.
            least = Measurement.get(console, console.options.update(max_width=10_000), table).minimum
            console = Console(width=max(console.width, least))
        console.print(table)
    except Exception as error:  # not fatal, as the figures are on disk
        say(f"the table could not be printed: {error!r}", error=True)


READERS: dict[str, Callable[..., Any]] = {"train": configs.load, "sweep": sweep_file.load, "config": key_list.read}
# Commands that need no JAX, and answer at once.
AT_ONCE: dict[str, Callable[[argparse.Namespace], int]] = {
    "config": lambda options: key_list.run(options.read, options.words),
    "completion": lambda options: completion.run(options.shell),
}
COMMANDS = {
    "train": _train,
    "stage2": _stage2,
    "sweep": _sweep,
    "eval": _eval,
    "predict": _predict,
    "landscape": _landscape,
    "report": _report,
    "compile": _compile,
    "datasets": _datasets,
}
