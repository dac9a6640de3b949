"""Run the exported folder, as `mlx_lm.load` gives it, on items; float32 throughout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import numpy.typing as npt

from tools.demo_model.items import Item

Floats = npt.NDArray[np.float32]
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A loaded model with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def layers(self) -> list[Any]:
        """The blocks."""
        return list(self.model.model.layers)

    def ids(self, item: Item, *, corrupted: bool = False) -> list[int]:
        """Token ids of an item, in its template."""
        text = item.corrupted if corrupted else item.text
        if item.template == "chat":
            said = [{"role": "user", "content": text}]
            return list(self.tokenizer.apply_chat_template(said, add_generation_prompt=True))
        return list(self.tokenizer.encode(text))

    def word_id(self, word: str) -> int:
        """The one token of a word, without <bos>."""
        (token,) = self.tokenizer.encode(word, add_special_tokens=False)
        return int(token)

    def residuals(
        self, tokens: mx.array, add: tuple[int, mx.array] | None = None
    ) -> list[mx.array]:
        """Residual stream after every block, `[batch, seq, d_model]` each.

        `add` is a layer and what to add to the residual after it.
        """
        resid = self.model.model.embed_tokens(tokens)
        stream = []
        for index, layer in enumerate(self.layers):
            resid = layer(resid, mask="causal", cache=None)
            if add is not None and add[0] == index:
                resid = resid + add[1]
            stream.append(resid)
        return stream

    def unembed(self, resid: mx.array) -> mx.array:
        """Logits of a residual through the model's own final norm and embedding."""
        logits: mx.array = self.model.model.embed_tokens.as_linear(self.model.model.norm(resid))
        return logits

    def last(
        self,
        rows: Sequence[list[int]],
        layer: int = -1,
        add: tuple[int, mx.array] | None = None,
    ) -> mx.array:
        """Residual after `layer` at each row's last token, `[rows, d_model]`.

        `add` is a layer and a vector to add there at that token. Rows are padded on the
        right, which a causal model does not see.
        """
        found = []
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            length = max(map(len, some))
            ends = mx.array([len(row) - 1 for row in some])
            tokens = mx.array([row + [0] * (length - len(row)) for row in some])
            delta = None
            if add is not None:
                at_end = (mx.arange(length)[None, :] == ends[:, None])[..., None]
                delta = (add[0], at_end * add[1])
            resid = self.residuals(tokens, delta)[layer]
            found.append(resid[mx.arange(len(some)), ends])
            mx.eval(found[-1])
        return mx.concatenate(found)

    def logits(self, items: Sequence[Item], *, corrupted: bool = False, layer: int = -1) -> Floats:
        """Logits of the word after each item, `[items, d_vocab]`, by the lens after `layer`."""
        rows = [self.ids(item, corrupted=corrupted) for item in items]
        return np.asarray(self.unembed(self.last(rows, layer)))

    def answers(self, items: Sequence[Item]) -> npt.NDArray[np.int64]:
        """Token ids of the answers."""
        return np.array([self.word_id(item.answer) for item in items])

    def correct(self, items: Sequence[Item], logits: Floats | None = None) -> npt.NDArray[np.bool_]:
        """Whether the answer is the most probable of all words, for each item."""
        found = self.logits(items) if logits is None else logits
        right: npt.NDArray[np.bool_] = found.argmax(-1) == self.answers(items)
        return right

    def accuracy(self, items: Sequence[Item]) -> float:
        """Share of items whose answer is the most probable of all words."""
        return float(self.correct(items).mean())


def open_folder(folder: Path) -> Reader:
    """Load an exported model; its float16 weights are computed with in float32."""
    model, tokenizer, *_ = mlx_lm.load(str(folder))
    model.set_dtype(mx.float32)
    return Reader(model=model, tokenizer=tokenizer)
