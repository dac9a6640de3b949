"""Text that people wrote or a model produced, made fit for a label: one line, short, printable.

A token may be 100 kB long, turn the direction of writing or be a control character; none of that
may break a chart or a page.
"""

import textwrap
import unicodedata

_SHOWN = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def printable(text: str) -> str:
    r"""The text with control, format and surrogate characters written out, as in `\u202e`."""
    return "".join(map(_character, text))


def _character(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    # C: control, format (direction overrides), surrogates, unassigned; and the two line separators.
    if unicodedata.category(character)[0] == "C" or character in "\u2028\u2029":
        # Joiners belong to emoji and to scripts that need them.
        return character if character in "\u200c\u200d" else ascii(character)[1:-1]
    return character


def short(text: str, longest: int = 40) -> str:
    """Printable, and cut with … if it is longer than so many characters."""
    # Cut before and after: nobody needs 100 kB escaped to throw them away.
    shown = printable(text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def ending(text: str, longest: int = 40) -> str:
    """Like `short`, but keeps the end, where a prompt stops."""
    shown = printable(text[-longest - 1 :])
    return shown if len(shown) <= longest else f"…{shown[1 - longest :]}"


def token(text: str, longest: int = 12) -> str:
    """A token with its spaces as ␣, so that "the" and " the" differ."""
    return short(text[: longest + 1].replace(" ", "␣"), longest)


def numbered(place: int, text: str) -> str:
    """A label that sorts by its place and differs from every other: `003 the`; see `UNNUMBERED`."""
    return f"{place:04d} {text}"


UNNUMBERED = "slice(datum.label, 5)"
"""The Vega expression that takes the number of `numbered` away again."""


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """The text in at most so many lines of at most so many characters."""
    found = textwrap.wrap(
        printable(text[: width * (lines + 1)]), width, max_lines=lines, placeholder=" …"
    )
    return found or [""]
