"""Makes reports from work directories: Markdown with pictures, and the same figures as a table for the terminal.

Reports read only files, so they can be made while a run trains and long after it. Begin with `pages.py`, then
`read.py`, which turns work directories into records.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cbjax.report.notebook import show
    from cbjax.report.pages import (
        has_table,
        is_whole,
        report,
        report_sweep,
        sweep_table_for_terminal,
        table_for_terminal,
    )
    from cbjax.report.read import LeftOut, ReportError

__all__ = [
    "LeftOut",
    "ReportError",
    "has_table",
    "is_whole",
    "report",
    "report_sweep",
    "show",
    "sweep_table_for_terminal",
    "table_for_terminal",
]


def __getattr__(name: str) -> Any:
    # Imported at first use, because a sweep's file needs only the layout of tables, and not JAX.
    if name in __all__:
        place = {"LeftOut": "read", "ReportError": "read", "show": "notebook"}.get(name, "pages")
        return getattr(importlib.import_module(f"cbjax.report.{place}"), name)
    raise AttributeError(f"module 'cbjax.report' has no attribute {name!r}; it has {', '.join(__all__)}")
