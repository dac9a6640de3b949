"""Many edits at the last token of a prompt, or of several: what comes before is read once.

In a causal model an edit at the last token changes nothing before it, so the keys and values of the
other tokens can be shared: the prompt is read once into mlx-lm's cache, the cache is repeated for
every row, and a run computes one token a row. Where an architecture's cache cannot be repeated
(tried once a model, on a few tokens), the whole prompt runs in every row; the numbers are the same.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

import mlx.core as mx

from mlux.engine import sites
from mlux.engine.arrays import numbers
from mlux.engine.model import HookedModel
from mlux.engine.passes import Hook, HookWrapper


class LastToken:
    """Runs of the last token of prompts, in rows that share what comes before.

    A hook sees one token, or all of them where the cache cannot be shared: the last token is at
    index -1 of the axis of positions either way.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = model.tokenize("the capital of france is")
        >>> whole = model.forward("the capital of france is")[0, -1]
        >>> bool(mx.allclose(LastToken(model, ids, rows=2).run()[0], whole, atol=1e-3))
        True

    Args:
        model: The model.
        ids: The prompt's token ids [seq], or those of several prompts of one length [n, seq].
        rows: Rows of each run, of each prompt as many: those of the first prompt come first.
    """

    def __init__(self, model: HookedModel, ids: Sequence[int] | mx.array, *, rows: int) -> None:
        self._model = model
        given = ids if isinstance(ids, mx.array) else mx.array(list(ids))
        self._ids = given if given.ndim == 2 else given[None]
        count, seq = self._ids.shape
        self._each = rows // count
        self._cache = None
        if seq > 1 and can_share(model):
            read = _read(model, self._ids[:, :-1])
            self._cache = [_repeated(layer, count, self._each) for layer in read]

    def run(self, hooks: Sequence[tuple[str, Hook]] = ()) -> mx.array:
        """The logits at the last token with hooks, [rows, vocab_size], evaluated.

        Raises:
            HookError: As `HookedModel.run_with_hooks`.
        """
        whole = mx.repeat(self._ids, self._each, axis=0)
        if self._cache is None:
            return self._model.run_with_hooks(whole, hooks=hooks)[:, -1]
        cache = [_copied(layer) for layer in self._cache]
        return self._model.run_with_hooks(whole[:, -1:], hooks=hooks, cache=cache)[:, -1]


_shared: "WeakKeyDictionary[HookedModel, bool]" = WeakKeyDictionary()


def can_share(model: HookedModel) -> bool:
    """Whether repeating a model's cache gives what the whole prompt gives; tried once a model."""
    if model not in _shared:
        _shared[model] = True  # so that the trial itself shares
        _shared[model] = _try_sharing(model)
    return _shared[model]


def _try_sharing(model: HookedModel) -> bool:
    ids = [token % model.config["vocab_size"] for token in range(1, 13)]
    widths: dict[str, set[int]] = {}

    def look(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        widths.setdefault(wrapper.path, set()).add(output.shape[-1])

    blocks = enumerate(model.anatomy.blocks)
    hooks = [(sites.tap(layer, "z"), look) for layer, block in blocks if block.n_heads]
    whole = model.run_with_hooks(mx.array([ids]), hooks=hooks)[0, -1]
    try:
        rows = LastToken(model, ids, rows=2).run(hooks)
    except (ValueError, TypeError, AttributeError, IndexError, NotImplementedError):
        return False  # what caches raise that are not made of arrays with a row for each prompt
    # Latent attention (DeepSeek) works on one token in another basis: its z is another thing there.
    if any(len(seen) > 1 for seen in widths.values()):
        return False
    # Rounding is far below this, a forgotten state far above.
    allowed = mx.finfo(whole.dtype).eps ** 0.5 * numbers(mx.max(whole) - mx.min(whole))
    return bool(numbers(mx.max(mx.abs(rows - whole))) <= allowed)


def _read(model: HookedModel, tokens: mx.array) -> list[Any]:
    from mlx_lm.models.cache import make_prompt_cache

    cache: list[Any] = make_prompt_cache(model.model)
    # Logits of one token of each, not of all: a large vocabulary would fill the memory.
    model.run_with_hooks(tokens, cache=cache, positions=mx.zeros(tokens.shape[0], dtype=mx.int32))
    return cache


def _repeated(cache: Any, count: int, each: int) -> Any:
    """A layer's cache with each of its rows repeated; room for later tokens is left out."""

    def repeat(array: mx.array) -> mx.array:
        if array.ndim < 2 or array.shape[0] != count:
            return array
        return mx.repeat(array, each, axis=0)

    repeated = _mapped(cache, repeat)
    keys, offset = getattr(repeated, "keys", None), getattr(repeated, "offset", None)
    if isinstance(keys, mx.array) and isinstance(offset, int) and offset < keys.shape[2]:
        repeated.keys, repeated.values = (
            held[..., :offset, :] for held in (repeated.keys, repeated.values)
        )
    return repeated


def _copied(cache: Any) -> Any:
    """A copy that may be written to."""
    return _mapped(cache, lambda array: array[...])


def _mapped(value: Any, change: Any) -> Any:
    """The same structure with its arrays changed; caches hold arrays, and lists of them or more."""
    if isinstance(value, mx.array):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, change) for item in value)
    if hasattr(value, "__dict__"):
        mapped = copy(value)
        mapped.__dict__.update({k: _mapped(v, change) for k, v in vars(value).items()})
        return mapped
    return value
