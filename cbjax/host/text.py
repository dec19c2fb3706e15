"""Escapes text for a terminal, a page of Markdown or a spreadsheet, so that none of it acts as a command there.

Names of classes, files and runs come from users. They are kept as they are, and escaped once, when they are written.
"""

import re
from collections.abc import Iterable

# Control codes except tab and line feed, marks that reverse text, other line breaks, and bytes that are not UTF-8.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKS = re.compile(r"([\\`*<>\[\]|$~&]|(?<![^\W_])_|_(?![^\W_]))")
# The start of a cell that Excel, LibreOffice and the like would calculate, after the quotes that `csv_line` adds.
_FORMULA = re.compile("'*[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PLAIN = {"±": "+-", "–": "-", "—": "-", "…": "...", "×": "x", "µ": "u", "→": "->"}


def visible(text: object) -> str:
    r"""Shows control codes and the like as \x1b or \u202e, and bytes that are not UTF-8 as \xe9. Line breaks stay."""
    return _HIDDEN.sub(_shown, str(text))


def one_line(text: object) -> str:
    r"""Returns `visible` with line breaks and tabs shown as \n and \t."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def escape(text: object) -> str:
    """Makes any text plain text in a line or a table cell of Markdown; underscores inside words are safe already."""
    return _MARKS.sub(r"\\\1", " ".join(visible(text).split()))


def code(text: object) -> str:
    """Returns the text as code of Markdown, on one line; the text may have backticks."""
    line = " ".join(visible(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def csv_line(cells: Iterable[object]) -> str:
    """Returns a line of CSV, without its line break.

    A cell that a spreadsheet would calculate gets an apostrophe in front, which `csv_cell` removes; numbers do not.
    """
    return ",".join(map(_quoted, cells))


def csv_cell(cell: str) -> str:
    """Returns the original text of a cell that `csv_line` wrote and a CSV reader read."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def encodable(text: str, encoding: str | None) -> str:
    """Returns the text, with each character that an encoding lacks replaced."""
    try:
        text.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return "".join(one if _has(one, encoding) else _PLAIN.get(one) or _code_of(one) for one in text)
    return text


def _quoted(cell):
    text = visible("" if cell is None else cell)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    # Semicolon and tab too: some programs read them as the end of a cell.
    return '"' + text.replace('"', '""') + '"' if re.search('[,;"\t\r\n]', text) else text


def _shown(match):
    return _code_of(match[0])


def _code_of(character):
    if "\udc80" <= character <= "\udcff":  # Python's form of a byte that is not UTF-8
        character = chr(ord(character) - 0xDC00)
    return character.encode("unicode_escape").decode()


def _has(character, encoding):
    try:
        return bool(character.encode(encoding or "utf-8"))
    except (UnicodeEncodeError, LookupError):
        return False
