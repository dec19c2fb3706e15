"""A report in a notebook: its text and its pictures in order; elsewhere an error that says what to do."""

import sys
import types

import pytest

from cbjax.report import ReportError, show


@pytest.fixture
def cell(monkeypatch):
    """What is shown below the cell."""
    shown = []
    ipython, parts = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=True)
    parts.display = shown.append
    parts.Markdown = lambda text: ("text", text.strip())
    parts.Image = lambda data, format, retina: ("picture", data)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", parts)
    return shown


def test_a_report_is_shown_with_its_pictures_in_order(cell, tmp_path):
    (tmp_path / "report.md").write_text("# CE\n\n![Classes](classes.png)\n\nmore\n\n![by epoch](curves.png)\n")
    (tmp_path / "classes.png").write_bytes(b"1")
    (tmp_path / "curves.png").write_bytes(b"2")
    show(tmp_path)
    assert cell == [("text", "# CE"), ("picture", b"1"), ("text", "more"), ("picture", b"2"), ("text", "")]


def test_a_folder_without_run_and_report_is_refused(cell, tmp_path):
    with pytest.raises(ReportError, match="no run and no report"):
        show(tmp_path)


def test_without_a_notebook_the_error_names_the_page(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    with pytest.raises(ReportError, match=rf"in a notebook only.* open {tmp_path}/report\.md$"):
        show(tmp_path)
