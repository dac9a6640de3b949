"""What each token of a vocabulary is called, so that two tokens never have one name.

A decoder that is given one id may strip the space in front of a word, and of a part of a character
it makes "�"; so "-" and " -", or twenty bytes, come out as one text. A vocabulary's own pieces
differ, but are written in an alphabet of their own. `shown` is the piece as people can read it:
a space is ␣, a byte that is no character is <0xE2>, and what cannot be seen is <U+200B>.
"""

import json
import re
from collections import Counter
from functools import cached_property
from typing import Any

from mlux.provenance import TokenText

_SPACE = "▁"
"""How SentencePiece writes a space."""

_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
_BYTE = re.compile("<0x[0-9A-F]{2}>")
# A character, or the `<` of what would look like one of our own marks.
_PART = re.compile(r"(?P<mark><(?=0x|U\+|id:))|.", re.DOTALL)


def visible(text: str) -> str:
    r"""The text with nothing in it that cannot be seen; different texts stay different.

    Args:
        text: Any text; bytes that are no character are surrogates, as Python's `surrogateescape`
            makes them.

    Example:
        >>> visible(" caf" + b"\xc3".decode("utf-8", "surrogateescape"))
        '␣caf<0xC3>'
    """
    if text.isascii() and text.isprintable() and "<" not in text:
        return text.replace(" ", "␣")
    return _PART.sub(_part, text)


def _part(match: re.Match[str]) -> str:
    character = match[0]
    if character in _VISIBLE:
        return _VISIBLE[character]
    if "\udc80" <= character <= "\udcff":
        return f"<0x{ord(character) - 0xDC00:02X}>"
    if match["mark"] or not character.isprintable() or character in _VISIBLE.values():
        return f"<U+{ord(character):04X}>"
    return character


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies, as GPT-2 chose them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


class Vocabulary:
    """The tokens of a tokenizer by their ids.

    Args:
        tokenizer: A tokenizer of transformers, or mlx-lm's wrapper around one.

    Example:
        >>> from mlux import HookedModel
        >>> vocabulary = Vocabulary(HookedModel.from_pretrained("demo").tokenizer)
        >>> vocabulary(14).shown
        '↵'
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, token: int) -> TokenText:
        """A token's texts; of an id that the vocabulary lacks, the id itself is shown."""
        return TokenText(
            text=str(self._tokenizer.decode([token])),
            piece=self._pieces.get(token),
            shown=self._shown.get(token, f"<id:{token}>"),
        )

    @cached_property
    def _pieces(self) -> dict[int, str]:
        return {token: piece for piece, token in self._tokenizer.get_vocab().items()}

    @cached_property
    def _shown(self) -> dict[int, str]:
        added = set(getattr(self._tokenizer, "get_added_vocab", dict)().values())
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None:  # a piece of the vocabulary may be listed as added too
            added -= set(backend.get_vocab(with_added_tokens=False).values())
        rules, alphabet = _rules(self._tokenizer), _byte_alphabet()
        in_bytes = "ByteLevel" in rules or hasattr(self._tokenizer, "byte_decoder")
        spaced = _SPACE in rules or hasattr(self._tokenizer, "sp_model")

        def read(token: int, piece: str) -> str:
            if token in added:  # stands for itself
                return visible(piece)
            if in_bytes and all(character in alphabet for character in piece):
                content = bytes(alphabet[character] for character in piece)
                return visible(content.decode("utf-8", "surrogateescape"))
            if _BYTE.fullmatch(piece) and not in_bytes:
                return piece
            return visible(piece.replace(_SPACE, " ") if spaced else piece)

        found = {token: read(token, piece) for token, piece in self._pieces.items()}
        times = Counter(found.values())
        # Such as a run of spaces that was added to a vocabulary that could already write it.
        return {
            token: text if times[text] == 1 else f"{text}<id:{token}>"
            for token, text in found.items()
        }


def _rules(tokenizer: Any) -> str:
    """How a fast tokenizer turns text into pieces and back, as JSON without the vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [getattr(backend, name, None) for name in ("normalizer", "pre_tokenizer", "decoder")]
    states = [part.__getstate__() for part in parts if part is not None]
    return json.dumps([json.loads(state) for state in states], ensure_ascii=False)
