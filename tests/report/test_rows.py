"""Rows of results: what is written is read, whole or not at all, each config once."""

import csv
import os
import subprocess
import sys

import pytest

from cbjax.report import rows

ROW = dict.fromkeys(rows.FIELDS, "1") | {"method": "CB, beta 0.9", "device": "1 x cpu", "config": "aa"}


def test_rows_come_back_and_a_config_has_one(tmp_path):
    path = tmp_path / "results.csv"
    assert rows.read(path) == []
    rows.add(path, [ROW, {**ROW, "config": "bb"}])
    rows.add(path, [{**ROW, "last": "2"}])
    assert rows.read(path) == [{**ROW, "last": "2"}, {**ROW, "config": "bb"}]
    rows.add(path, [{**ROW, "metric": "error"}])  # of another table, which shares the run
    assert [row["metric"] for row in rows.read(path)] == ["1", "1", "error"]
    assert path.read_text().splitlines()[0] == ",".join(rows.FIELDS)
    assert {found.name for found in tmp_path.iterdir()} == {"results.csv", ".lock"}


def test_names_come_back_and_no_cell_starts_a_formula(tmp_path):
    path = tmp_path / "rows [1]*.csv"
    names = ["=CE", "+one", "-0.5", "@x", "'=x", "two\nlines", 'a, "b"; c', "|`$x$", "naïve"]
    added = [{**ROW, "method": name, "setting": name, "config": str(number)} for number, name in enumerate(names)]
    for _ in range(2):
        rows.add(path, added)
        assert rows.read(path) == added
    with open(path, newline="", encoding="utf-8") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@")) and cell != "-0.5"]
    rows.add(path, [{**ROW, "method": "caf\udce9\x1b[1m"}])
    assert rows.read(path)[-1]["method"] == r"caf\xe9\x1b[1m"


def test_a_file_that_excel_saved_is_read(tmp_path):
    path = tmp_path / "results.csv"
    rows.add(path, [{**ROW, "best": ""}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert rows.read(path) == [{**ROW, "best": ""}]
    rows.add(path, [{**ROW, "config": "bb"}])
    assert len(rows.read(path)) == 2


HEAD = ",".join(rows.FIELDS).encode()


def line(**fields):
    return HEAD + b"\n" + ",".join(f'"{one}"' for one in (ROW | fields).values()).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "with the columns table,method,.*; got a,b"),
        (b"", "with the columns table,method,.*; got nothing"),
        (HEAD + b"\n1,2\n", "results.csv, line 2: must have 12 fields"),
        (
            line(last="abc"),
            "results.csv, line 2: last must be a finite number, such as 20.4, or empty; got abc; repair",
        ),
        (line(last="20,4"), "line 2: last must be a finite number.*; got 20,4"),
        (line(best="nan"), "line 2: best must be a finite number.*; got nan"),
        (line(seconds=""), "line 2: seconds must be a finite number, such as 20.4; got nothing; repair"),
        (HEAD + b"\n\n1,2\n", "results.csv, line 3: must have 12 fields"),
        (HEAD + b"\n\xe9\n", "must be a CSV of rows, in UTF-8"),
        (b"a" * 200_000, "must be a CSV of rows, in UTF-8; field larger"),
    ],
)
def test_another_file_is_refused_and_kept(tmp_path, content, message):
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(rows.RowsError, match=message):
        rows.add(path, [ROW])
    assert path.read_bytes() == content


def test_a_pipe_is_no_file_of_rows(tmp_path):
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(rows.NoRowsError, match="it is not a regular file"):
        rows.read(tmp_path / "rows.csv")


def test_processes_may_add_to_one_file_at_the_same_time(tmp_path):
    program = (
        "import sys; from cbjax.report import rows; row = dict.fromkeys(rows.FIELDS, '1')\n"
        "for i in range(30): rows.add(sys.argv[1], [row | {'config': sys.argv[2] + str(i)}])"
    )
    path = tmp_path / "results.csv"
    writers = [subprocess.Popen([sys.executable, "-c", program, path, name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert {row["config"] for row in rows.read(path)} == {f"{name}{i}" for name in "ab" for i in range(30)}
    assert {found.name for found in tmp_path.iterdir()} == {"results.csv", ".lock"}
