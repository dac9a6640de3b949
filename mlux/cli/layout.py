"""How wide the columns of a table may be."""

import unicodedata

GAP = 2  # characters between two columns
SQUEEZED = 8  # characters that a text column keeps at least


def cells_width(text: str) -> int:
    """The terminal cells that a text takes: two for an East Asian wide character or an emoji."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    # Marks lie over the letter before them, and so do the vowels and finals of Korean syllables.
    if unicodedata.category(character) in ("Mn", "Me") or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, width: int) -> str:
    """The text, or as much of it as fits with an ellipsis behind it."""
    if cells_width(text) <= width:
        return text
    used, kept = 1, ""
    for character in text:
        used += _cells(character)
        if used > width:
            break
        kept += character
    return f"{kept}…"


def padded(text: str, width: int, right: bool = False) -> str:
    """The text with spaces up to `width` cells."""
    space = " " * (width - cells_width(text))
    return space + text if right else text + space


def fit(natural: list[int], numeric: list[bool], available: int) -> list[int]:
    """Widths that fit a terminal; fewer than `natural` if not all columns do.

    Text is shortened, the widest column first; a shortened number would be another number. The
    first column names the row and is what people copy: it keeps a third of the width.
    """
    least = [
        width if number else min(width, SQUEEZED if place else available // 3)
        for place, (width, number) in enumerate(zip(natural, numeric, strict=True))
    ]
    while len(least) > 1 and _excess(least, available) > 0:
        least.pop()
    widths = [max(low, min(width, available)) for low, width in zip(least, natural, strict=False)]
    for _ in range(_excess(widths, available)):
        spare = [width - minimum for width, minimum in zip(widths, least, strict=True)]
        if not any(spare):
            break
        # The widest that may still shrink; the first column only when no other can.
        order = [
            (place > 0, widths[place]) if room else (False, -1) for place, room in enumerate(spare)
        ]
        widths[order.index(max(order))] -= 1
    return widths


def _excess(widths: list[int], available: int) -> int:
    return sum(widths) + GAP * (len(widths) - 1) - available
