"""Finds fonts for names in scripts that matplotlib's own font lacks, among those of this machine."""

import functools
from collections.abc import Iterable
from typing import Any

OWN = "DejaVu Sans"  # matplotlib brings it along
PLACEHOLDER = "Last Resort"  # its letters are boxes that name the script


def lacking(texts: Iterable[str]) -> str:
    """Returns the letters that no font of this machine has, each once: pictures show boxes instead."""
    letters = _beyond_own(texts)
    return "".join(sorted(letters - set().union(*map(_letters_of, _families(letters)))))


def fit(figure: Any) -> None:
    """Gives each text of a figure the fonts that its letters need."""
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    for text in texts:
        if letters := _beyond_own([text.get_text()]):
            text.set_fontfamily([OWN, *_families(letters)])


def _beyond_own(texts: Iterable[str]) -> frozenset[str]:
    letters = {letter for text in texts if not text.isascii() for letter in text if not letter.isspace()}
    return frozenset(letters - _letters_of(OWN)) if letters else frozenset()


@functools.lru_cache(maxsize=512)
def _families(letters: frozenset[str]) -> tuple[str, ...]:
    """Returns names of fonts that together have as many of the letters as possible."""
    found: list[str] = []
    while letters:
        best = max(sorted(_paths()), key=lambda name: len(letters & _letters_of(name)))
        if not (has := letters & _letters_of(best)):
            break
        letters, found = letters - has, [*found, best]
    return tuple(found)


@functools.cache
def _paths() -> dict[str, str]:
    """Returns name of a font -> its file. Fonts that were installed since matplotlib made its list are added to it."""
    from matplotlib import font_manager

    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        try:
            font_manager.fontManager.addfont(path)
        except Exception:  # a damaged font; its reader raises many kinds
            continue
    fonts = [entry for entry in font_manager.fontManager.ttflist if PLACEHOLDER not in entry.name]
    upright = sorted(
        fonts, key=lambda entry: (entry.style != "normal", entry.weight not in (400, "normal"), entry.fname)
    )
    paths: dict[str, str] = {}
    for entry in upright:
        paths.setdefault(entry.name, entry.fname)
    return paths


@functools.cache
def _letters_of(name: str) -> frozenset[str]:
    from matplotlib import font_manager

    try:
        path = font_manager.findfont(name) if name == OWN else _paths()[name]
        return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
    except Exception:  # a damaged font; its reader raises many kinds
        return frozenset()
