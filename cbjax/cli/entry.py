"""Runs a command line and returns its exit status. A user's mistake gives one message and status 2, no traceback."""

import sys
from collections.abc import Sequence

from cbjax.cli import startup
from cbjax.cli.arguments import parse
from cbjax.cli.commands import AT_ONCE, COMMANDS, READERS
from cbjax.config import ConfigError
from cbjax.host.output import guarded, say
from cbjax.host.storage import PathError

OUT_OF_MEMORY = (
    "a device ran out of memory: make its share of the batch smaller (batch_size, evaluation.batch_size; or "
    "optim.accumulation, which keeps the batch), or set model.remat=true or model.dtype=bfloat16"
)

FILED = (
    "train",
    "stage2",
    "sweep",
    "predict",
    "landscape",
    "report",
)  # their results are in files, so lost output does no harm


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status.

    0: success. 1: training diverged, or does not fit a TPU slice, or videos could not be decoded. 2: a mistake. 73: the
    disk is full. 74: a connection broke. 128 + signal: stopped.
    """
    with guarded() as out:
        options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
        try:
            status = _run(options, overrides)
        except KeyboardInterrupt:  # it may also come while modules and the configuration are read
            say(f"cbjax {options.name}: stopped", error=True)
            status = 130
        out.flush()
        if out.error is None or isinstance(out.error, BrokenPipeError):  # the reader has enough, such as `head -1`
            return status
        reason = getattr(out.error, "strerror", None) or out.error
        say(f"cbjax {options.name}: the output could not be written: {reason}", error=True)
        from cbjax.host.writers import is_full

        return status or (0 if options.name in FILED else 73 if is_full(out.error) else 2)


def _run(options, overrides):
    try:
        if options.name in READERS:  # first, as all else takes seconds
            options.read = READERS[options.name](options.config, overrides)
        if options.name in AT_ONCE:
            return AT_ONCE[options.name](options)
        startup.check_environment()
    except ConfigError as error:
        say(f"cbjax {options.name}: {error}", error=True)
        return 2
    # Imported late, when the arguments are known to be right: these take seconds.
    from cbjax.data import DataError
    from cbjax.estimate.compile import CompileError
    from cbjax.estimate.tpu import TopologyError
    from cbjax.host.code import CodeError
    from cbjax.host.interrupts import Interrupted
    from cbjax.host.writers import is_full
    from cbjax.parallel.processes import ProcessError, device_failure, leave, meet_to_tell
    from cbjax.report import ReportError
    from cbjax.report.rows import RowsError
    from cbjax.types import NonFiniteLoss
    from cbjax.workdir.checkpoint import CheckpointError
    from cbjax.workdir.files import WorkdirError

    mistakes = (CodeError, CompileError, ConfigError, DataError, PathError, ProcessError, RowsError, TopologyError)
    try:
        return COMMANDS[options.name](options, overrides)
    except (CheckpointError, ReportError, WorkdirError, *mistakes) as error:
        say(f"cbjax {options.name}: {error}", error=True)
        status = getattr(error, "status", 2)
        meet_to_tell(options, error)
        leave(status, error)
        return status
    except OSError as error:  # a full disk, a file in the place of a folder, no permission
        say(f"cbjax {options.name}: {_disk_error(error, options.name)}", error=True)
        # 74 tells a scheduler to try again: a broken connection may work then.
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
    from cbjax.host.writers import FULL

    said = f"{error.filename or 'the disk'}: {error.strerror or error}"
    if error.errno not in FULL:
        return said
    goes_on = "goes on from the last checkpoint" if command in ("train", "stage2", "sweep") else "does it"
    return f"could not write {said}; {FULL[error.errno]}, then the same command {goes_on}"
