"""What names may hold, and how they look at a terminal, on a page and in a spreadsheet."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbjax.host import text

BYTE = b"caf\xe9".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("café, 猫 and 🐈\u200d⬛", "café, 猫 and 🐈\u200d⬛"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("over\rwritten\x08\x7f", r"over\rwritten\x08\x7f"),
        ("\x9b31m", r"\x9b31m"),  # an escape code of eight bits
        ("gpj.\u202etac", r"gpj.\u202etac"),  # shown from the right, a cat.jpg
        ("a\u2028b", r"a\u2028b"),
        (BYTE, r"caf\xe9"),
        ("\ud83d", r"\ud83d"),
        ("two\n\tlines", "two\n\tlines"),
    ],
)
def test_nothing_that_commands_a_terminal_is_left_in_a_text(given, shown):
    assert text.visible(given) == shown
    assert text.one_line(given) == shown.replace("\n", r"\n").replace("\t", r"\t")


def test_markdown_takes_nothing_in_a_name_for_a_mark():
    assert text.escape("a|b `c` <i> [d](e) *f* &lt; $g$ _h_ i_j\nk") == (
        r"a\|b \`c\` \<i\> \[d\](e) \*f\* \&lt; \$g\$ \_h\_ i_j k"
    )
    assert text.escape("\x1b[1m" + BYTE) == r"\\x1b\[1mcaf\\xe9"
    assert text.code("a`b") == "``a`b``" and text.code("`a") == "`` `a ``" and text.code("a\n\x1b") == r"`a \x1b`"


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "-x", "@sum", "\tx", "\n=x", "＝1", "-1_0", "-inf", "--5", "'=1"])
def test_no_cell_starts_a_formula(name):
    (cell,) = next(csv.reader(io.StringIO(text.csv_line([name]), newline="")))
    assert cell.startswith("'")
    assert text.csv_cell(cell) == text.visible(name)


def test_a_carriage_return_is_shown_and_starts_nothing():
    assert text.csv_line(["\r=1", "a"]) == r"\r=1,a"


@pytest.mark.parametrize("number", ["-0.5", "+3", "-1e-05", "-.5", "7", ""])
def test_numbers_stay_numbers(number):
    assert text.csv_line([number, "a"]) == f"{number},a"


def test_a_cell_stays_one_cell_in_programs_that_split_at_semicolons_or_tabs():
    assert text.csv_line(["a;=1", "b\tc", 'say "no"', "it's", None, 0.25]) == '"a;=1","b\tc","say ""no""",it\'s,,0.25'


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2))
def test_cells_come_back_from_any_reader_of_csv(cells):
    cells = [text.visible(cell) for cell in cells]
    (line,) = csv.reader(io.StringIO(text.csv_line(cells), newline=""), strict=True)
    assert [text.csv_cell(cell) for cell in line] == cells


def test_what_an_encoding_lacks_has_a_stand_in():
    assert text.encodable("20.5 ± 0.3 – café 猫", "ascii") == r"20.5 +- 0.3 - caf\xe9 \u732b"
    assert text.encodable("20.5 ± 0.3 – café 猫", "latin-1") == "20.5 ± 0.3 - café \\u732b"
    assert text.encodable("café 猫", "utf-8") == "café 猫"
    assert text.encodable(BYTE, "utf-8") == r"caf\xe9"
    assert text.encodable("±", "no such encoding") == "+-" and text.encodable("±", None) == "±"
