"""The kinds of values that configuration keys take: numbers in a range, names from a list, tuples."""

import ast
import contextlib
import itertools
import math
import numbers
import os
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from cbjax.host.code import FORM, is_own

# Longer than any path that a system allows and any class name.
LONGEST_TEXT = 4096
# Upper bound of whole numbers that have no bound of their own: devices count in 32 bits.
LARGEST = 2**31 - 1
LARGEST_GROUP = 10**6  # classes in a group


class BrokenRule(ValueError):
    """A value is refused for a reason that the key's rule does not name; the message says the reason."""


class Kind(NamedTuple):
    """The values that a key takes.

    Attributes:
      rule: the end of the sentence "KEY must be ...".
      accept: value -> the form in which it is kept. Raises ValueError if it breaks the rule, BrokenRule to say more.
      read: text of the command line -> value for `accept`. Raises ValueError if the text cannot be one.
      names: the allowed names, if any; a misspelt value is compared with them.
    """

    rule: str
    accept: Callable[[Any], Any]
    read: Callable[[str], Any]
    names: tuple[str, ...] = ()


def integer(low: int, high: int = LARGEST) -> Kind:
    """Whole numbers in [low, high]. 1.5, 2.0 and 1e3 are refused, so nothing is rounded silently."""

    def accept(value):
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or not low <= value <= high:
            raise ValueError
        return int(value)

    return Kind(f"a whole number from {low} to {high}", accept, int)


def number(
    *, low: float | None = None, above: float | None = None, high: float | None = None, below: float | None = None
) -> Kind:
    """Finite real numbers in an interval, kept as floats; `low` and `high` are included, `above` and `below` not."""

    def accept(value):
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not real or not math.isfinite(value):  # OverflowError for an int of hundreds of digits
            raise ValueError
        if (low is not None and value < low) or (above is not None and value <= above):
            raise ValueError
        if (high is not None and value > high) or (below is not None and value >= below):
            raise ValueError
        if below is not None and struct.unpack("f", struct.pack("f", value))[0] >= below:
            raise BrokenRule(f"training computes in float32, where this is {below:.15g}")
        return float(value)

    words = (("of at least", low), ("above", above), ("of at most", high), ("below", below))
    bounds = " and ".join(f"{word} {bound:.15g}" for word, bound in words if bound is not None)
    return Kind(f"a finite number {bounds}", accept, float)


def boolean() -> Kind:
    """True or False; `true` and `false` on the command line."""

    def accept(value):
        if type(value) is not bool:
            raise ValueError
        return value

    def read(text):
        return {"true": True, "false": False}.get(text.lower())

    return Kind("true or false", accept, read)


def choice(*names: str) -> Kind:
    """One of the names."""

    def accept(value):
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return Kind(" or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}", accept, str, names)


def text(what: str) -> Kind:
    """A path, or any text that is not empty. On the command line, quotes around it are removed."""

    def accept(value):
        given = os.fspath(value) if isinstance(value, str | os.PathLike) else None
        if not given or not isinstance(given, str):
            raise ValueError
        if "\0" in given or len(given) > LONGEST_TEXT:
            raise BrokenRule(f"it can have at most {LONGEST_TEXT} characters, none of them NUL")
        return given

    def read(text):
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text

    return Kind(what, accept, read)


def prefixed(prefix: str, what: str) -> Kind:
    """Text that begins with a prefix and does not end there; `what` stands for the rest in the rule."""

    def accept(value):
        if not isinstance(value, str) or not value.startswith(prefix) or not value.removeprefix(prefix).strip():
            raise ValueError
        if "\0" in value or len(value) > LONGEST_TEXT:
            raise BrokenRule(f"it can have at most {LONGEST_TEXT} characters, none of them NUL")
        return value

    return Kind(f"{prefix}{what}", accept, str)


def either(*kinds: Kind) -> Kind:
    """Values of any of the kinds; the first kind that accepts a value keeps it."""

    def first(attempt):
        reasons = []
        for kind in kinds:
            try:
                return attempt(kind)
            except BrokenRule as error:
                reasons.append(error)
            except (ValueError, OverflowError):
                pass
        raise reasons[0] if reasons else ValueError()

    return Kind(
        " or ".join(kind.rule for kind in kinds),
        lambda value: first(lambda kind: kind.accept(value)),
        lambda text: first(lambda kind: kind.accept(kind.read(text))),
        sum((kind.names for kind in kinds), ()),
    )


def place_or_name(what: str) -> Kind:
    """The place of something in its order, from 0, or its name. On the command line 01, +1 and 1_0 are names."""

    def read(text):
        if str(int(text)) != text:
            raise ValueError
        return int(text)

    return either(integer(0)._replace(read=read), text(what))


def several(kind: Kind, *, increasing: bool = False) -> Kind:
    """Tuples whose values are all of one kind; `0.8,0.9` or `(0.8, 0.9)` on the command line.

    Args:
      kind: kind of each value.
      increasing: whether there must be at least one value, and each must be larger than the one before.
    """

    def accept(values):
        if type(values) not in (list, tuple):
            raise ValueError
        values = tuple(kind.accept(value) for value in values)
        if increasing and (not values or any(a >= b for a, b in itertools.pairwise(values))):
            raise ValueError
        return values

    def read(text):
        bare = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
        bare = bare.strip().removesuffix(",")
        return tuple(kind.read(part.strip()) for part in bare.split(",")) if bare else ()

    order = "strictly increasing values" if increasing else "values"
    return Kind(f"{order} like 1,2 or (1, 2), each {kind.rule}", accept, read)


def named_groups(member: Kind) -> Kind:
    """Groups with a name and members: (("majority", (9,)), ("minority", (4, 7))), or a dictionary in a Python file.

    On the command line they are written `majority=9; minority=4,7`, or as in Python, which suits members with a comma,
    a semicolon or an equals sign in their names.

    Args:
      member: kind of each member.
    """

    def accept(groups):
        pairs = tuple(groups.items()) if hasattr(groups, "items") else groups
        if type(pairs) not in (list, tuple):
            raise ValueError
        named = []
        for pair in pairs:
            name, members = pair if type(pair) in (list, tuple) and len(pair) == 2 else ("", ())
            if type(members) not in (list, tuple, range) or not 0 < len(members) <= LARGEST_GROUP:
                raise ValueError
            if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,100}", name):
                raise ValueError
            named.append((name, tuple(member.accept(value) for value in members)))
        return tuple(named)

    def read(text):
        bare = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
        if bare.startswith("(("):
            try:
                return ast.literal_eval(bare)
            except (SyntaxError, MemoryError, RecursionError) as error:
                raise ValueError from error
        parts = [part.partition("=") for part in bare.split(";")] if bare not in ("", "()") else []
        return tuple(
            (name.strip(), tuple(member.read(value.strip()) for value in members.split(",")))
            for name, _, members in parts
        )

    return Kind(
        f"groups like 'majority=9; minority=4,7', with names of letters, digits, _ and -, each member {member.rule}",
        accept,
        read,
    )


def own_code() -> Kind:
    """A user's function, "FILE.py:function" or "package.module:function"; whether it is there is checked later."""

    def accept(value):
        if not is_own(value) or len(value) > LONGEST_TEXT:
            raise ValueError
        return value

    return Kind(FORM, accept, str)


def option() -> Kind:
    """The value of an option of a user's function: none, true or false, a number, text, or a tuple of these."""

    def accept(value):
        value = value.tolist() if hasattr(value, "tolist") and hasattr(value, "shape") else value
        if type(value) in (list, tuple):
            return tuple(accept(one) for one in value)
        if value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
        return value

    def read(text):
        if text[:1] + text[-1:] in ("()", "[]"):
            parts = text[1:-1].strip().removesuffix(",").split(",")
            return tuple(read(part.strip()) for part in parts) if parts != [""] else ()
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            return text[1:-1]
        if text.lower() in ("none", "null", "true", "false"):
            return {"true": True, "false": False}.get(text.lower())
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return number(text)
        return text

    return Kind("none, true or false, a finite number, text, or a tuple of these", accept, read)


def options(example: str) -> Kind:
    """Options of a user's function by name: a dictionary in a Python file, kept as (("depth", 3), ("width", 2))."""
    value_of = option()

    def accept(given):
        pairs = tuple(given.items()) if hasattr(given, "items") else given
        if type(pairs) not in (list, tuple) or not all(type(one) in (list, tuple) and len(one) == 2 for one in pairs):
            raise ValueError
        if not all(isinstance(name, str) and name.isidentifier() for name, _ in pairs):
            raise ValueError
        return tuple(sorted((name, value_of.accept(value)) for name, value in dict(pairs).items()))

    def read(text):
        if text in ("", "()", "{}"):
            return ()
        raise BrokenRule(f"give each by itself: {example}")

    return Kind("names with values, each " + value_of.rule, accept, read)
