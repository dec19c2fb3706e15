"""Commands whose reader goes away, whose disk is full, and whose names or terminals are not what text should be."""

import io
import os
import subprocess
import sys

import pytest

from cbjax.cli import main
from cbjax.host import output
from cbjax.report import canvas, report
from tests import processes
from tests.report.test_report import make_run

BYTE = b"caf\xe9".decode("utf-8", "surrogateescape")
# Class names as folders, arrays and lists may have them.
NAMES = [BYTE, "\x1b[31mred", "bell\x07", "two\nlines", "a|b`c<i>", "=1+1", "$x$y", "gpj.\u202etac", "\x9b1m", "猫"]


@pytest.fixture
def full():
    """A stream onto a disk without room."""
    with open("/dev/full", "w") as stream:
        yield stream
        output.Stream(stream).drop()


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def test_a_reader_that_had_enough_is_no_failure(monkeypatch, capsys):
    with closed_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["datasets"]) == 0
    assert capsys.readouterr().err == ""


def test_figures_that_could_not_be_written_are_a_failure(monkeypatch, capsys, full):
    monkeypatch.setattr(sys, "stdout", full)
    assert main(["datasets"]) == 73
    assert capsys.readouterr().err == ("cbjax datasets: the output could not be written: No space left on device\n")


def test_a_report_on_disk_is_none(tmp_path, monkeypatch, capsys, full):
    make_run(tmp_path)
    monkeypatch.setattr(sys, "stdout", full)
    assert main(["report", str(tmp_path)]) == 0
    assert "the output could not be written" in capsys.readouterr().err
    assert (tmp_path / "report.md").stat().st_size


def test_a_mistake_is_one_where_nobody_can_read_it(tmp_path, monkeypatch, full):
    monkeypatch.setattr(sys, "stderr", full)
    assert main(["eval", f"--workdir={tmp_path}"]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no shell")
def test_closed_standard_files_are_no_failure():
    command = subprocess.list2cmdline(processes.command("datasets")[:1])
    program = "import sys; from cbjax.cli import main; sys.exit(main(['datasets']))"
    done = subprocess.run(f'exec {command} -c "{program}" <&- >&- 2>&-', shell=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_names_are_printed_on_any_terminal(tmp_path, monkeypatch, encoding):
    for number, label in enumerate(NAMES):
        make_run(tmp_path / f"{number}", names=NAMES, model={"name": label}, held_out=False)
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)  # strict
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["report", str(tmp_path)]) == 0
    shown.seek(0)
    text = shown.read()
    assert r"caf\xe9" in text and r"model.name=\x1b[31mred" in text and r"two\nlines" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_any_names_are_in_a_report_and_its_pictures(tmp_path, capsys):
    make_run(tmp_path, names=NAMES)
    page = report(tmp_path, tmp_path).read_text(encoding="utf-8")
    assert all(character.isprintable() or character == "\n" for character in page)
    for name in (r"caf\\xe9", r"\\x1b\[31mred", r"a\|b\`c\<i\>", r"\$x\$y", "two lines", "猫"):
        assert f"| {name} |" in page
    assert page.count("![") == 4 and capsys.readouterr().err == ""


def test_a_picture_that_cannot_be_drawn_leaves_the_report_whole(tmp_path, monkeypatch, capsys):
    make_run(tmp_path)
    monkeypatch.setattr(canvas, "label_outer", None)
    page = report(tmp_path, tmp_path).read_text(encoding="utf-8")
    assert "Predicted class by true class: confusion.png could not be drawn." in page and "](classes.png)" in page
    assert f"{tmp_path / 'confusion.png'} could not be drawn: TypeError" in capsys.readouterr().err


def test_lines_are_said_to_whatever_listens(monkeypatch, capsys, full):
    output.say(f"{NAMES[1]} {BYTE} 猫")
    assert capsys.readouterr().out == "\\x1b[31mred caf\\xe9 猫\n"
    monkeypatch.setattr(sys, "stdout", None)
    output.say("a line")
    monkeypatch.setattr(sys, "stdout", full)
    output.say("a line")


def test_a_mistake_in_an_argument_shows_its_control_codes(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "--workdir=a", "--\x1b[31m"])
    assert r"unrecognized argument: --\x1b[31m" in capsys.readouterr().err


def test_a_run_whose_report_cannot_be_written_is_finished(tmp_path, monkeypatch, full, capsys):
    (tmp_path / "classes.png" / "in the way").mkdir(parents=True)
    monkeypatch.setattr(sys, "stdout", full)
    few = ("--config.model.name=linear", "--config.num_epochs=1")
    assert main(["train", "--config=digits_lt", *few, f"--workdir={tmp_path}"]) == 0
    shown = capsys.readouterr().err
    assert "the report could not be written: " in shown and f"`cbjax report {tmp_path}` tries again" in shown
    assert "cbjax train: the output could not be written: No space left on device" in shown
    assert (tmp_path / "results.json").exists() and not (tmp_path / "report.md").exists()
