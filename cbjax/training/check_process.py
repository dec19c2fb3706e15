"""Checks of the process that trains: XLA's flags for a GPU, and the main guard of a script with workers."""

import ast
import os
import pathlib
import sys
import threading

from cbjax.config import ConfigError

DETERMINISTIC_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


def check_deterministic(platform_name: str) -> None:
    """Raises ConfigError if a GPU was not told to add in a fixed order. Other devices always do."""
    missing = [flag for flag in DETERMINISTIC_FLAGS if flag not in os.environ.get("XLA_FLAGS", "")]
    if platform_name == "gpu" and missing:
        raise ConfigError(
            f"deterministic=True: needs XLA_FLAGS='{' '.join(missing)}' in the environment before JAX starts; the "
            "cbjax command sets it"
        )


def check_main_guard(workers: int) -> None:
    """Raises ConfigError if worker processes would train too, because each imports the script that trains."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not (frame.f_code.co_name == "<module>" and frame.f_globals is vars(main)):
        frame = frame.f_back
    if not workers or path is None or frame is None:  # a notebook, or text on standard input: nothing to import
        return
    try:
        statements = ast.parse(pathlib.Path(path).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    for one in statements:
        if isinstance(one, ast.If) and any(getattr(node, "id", "") == "__name__" for node in ast.walk(one.test)):
            is_here = one.lineno <= frame.f_lineno <= (one.end_lineno or one.lineno)
            leaves = isinstance(one.test, ast.Compare) and isinstance(one.test.ops[0], ast.NotEq)
            if is_here or (leaves and one.lineno < frame.f_lineno):
                return
    raise ConfigError(
        f"data.workers={workers}: each worker process imports {path}, whose line {frame.f_lineno} would train there "
        'too; put the lines that train under `if __name__ == "__main__":`, or use data.workers=0'
    )
