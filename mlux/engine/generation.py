"""Text generation with hooks, by mlx-lm's own cached generators, for one prompt or a batch.

The hooks are installed around each step of mlx-lm's generator and taken off before its token is
handed out, so whoever reads a stream may use the model in between and may stop when they like.
What a hook sees is what the model computes: the prompt in pieces, the last of them its last token
alone, then one token a call, [rows, 1, …]. A batch pads its prompts on the right while it reads
them, and rows that are done leave it. mlx-lm computes one token ahead, so a hook may fire once more
than there are tokens. Arrays that a hook keeps must be evaluated in the same thread.
"""

from collections.abc import Iterator, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import mlx.core as mx

from mlux.engine.arrays import numbers
from mlux.engine.continuation import Chunk, Completion, Continuation
from mlux.engine.kv_cache import group_size, make_cache, searches_keys, tokens_held
from mlux.engine.passes import Pass
from mlux.engine.sampling import Options
from mlux.errors import ModelError, PromptError

if TYPE_CHECKING:
    from mlux.engine.running import Running


class Stream(Iterator[Chunk]):
    """The tokens of one prompt's continuation, as they come.

    It may be left at any time: between two tokens the model carries no hooks. It belongs to the
    thread that made it, because what MLX builds in one thread cannot be evaluated in another.
    """

    def __init__(
        self,
        model: "Running",
        ids: Sequence[int],
        options: Options,
        state: Pass,
        *,
        number: int = 0,
        prompt_cache: Any = None,
    ) -> None:
        self._thread = get_ident()
        cache = make_cache(model, options) if prompt_cache is None else prompt_cache
        self._row = _start(model, ids, options, number=number, cached=tokens_held(cache))
        self._chunks = _chunks(model, self._row, options, state, cache)

    def __next__(self) -> Chunk:
        """The next token.

        Raises:
            HookError: After the last token, if a hook never fired.
            ModelError: In another thread than the one that made the stream.
        """
        if get_ident() != self._thread:
            raise ModelError(
                "This stream was started in another thread, and what MLX builds in one thread "
                "cannot be evaluated in another. Generate in the thread that reads the tokens."
            )
        chunk: Chunk = next(self._chunks)
        return chunk

    def close(self) -> None:
        """Ends the generation; nothing more comes."""
        self._chunks.close()

    def complete(self) -> Completion:
        """Reads what is left and returns the whole."""
        for _ in self:
            pass
        return self._row.completion()


def complete(
    model: "Running", rows: Sequence[Sequence[int]], options: Options, state: Pass
) -> list[Completion]:
    """The continuation of each prompt, by mlx-lm's batched generator where that is exact.

    Where it is not (a quantised or a rotating cache, an architecture whose masks know no padding),
    one prompt follows the other; the texts are the same.

    Raises:
        HookError: If a hook never fired in the whole generation.
    """
    plain = options.kv_bits is None and options.max_kv_size is None
    if plain and len(rows) > 1 and can_batch(model):
        starts = [_start(model, ids, options, number=i) for i, ids in enumerate(rows)]
        _run_batch(model, starts, options, state)
        return [row.completion() for row in starts]
    return [
        Stream(model, ids, options, state, number=number).complete()
        for number, ids in enumerate(rows)
    ]


_batches: "WeakKeyDictionary[Running, bool]" = WeakKeyDictionary()


def can_batch(model: "Running") -> bool:
    """Whether a padded batch gives what each prompt gives alone, tried once on a few tokens.

    Attention that first looks for the keys worth reading has a second cache a layer for that; its
    choice counts the padding where a text is long, which no short trial shows.
    """
    if model not in _batches:
        _batches[model] = not searches_keys(model) and _try_batch(model)
    return _batches[model]


def _try_batch(model: "Running") -> bool:
    options = Options(max_tokens=1)
    pair = [
        _start(model, ids, options, number=i) for i, ids in enumerate((range(1, 13), range(13, 18)))
    ]
    padded: dict[int, mx.array] = {}
    try:
        _run_batch(model, pair, options, Pass(layout=model.layout), padded)
    except (ValueError, TypeError, AttributeError, IndexError, NotImplementedError):
        return False  # what architectures raise whose caches or masks know no batches
    for row in pair:
        alone = next(Stream(model, row.prompt_ids, options, Pass(layout=model.layout))).logprobs
        # Rounding is far below this, a mask in the wrong place far above.
        allowed = mx.finfo(alone.dtype).eps ** 0.5 * numbers(mx.max(alone) - mx.min(alone))
        if not numbers(mx.max(mx.abs(alone - padded[row.number]))) <= allowed:  # or not a number
            return False
    return True


def _start(
    model: "Running", ids: Sequence[int], options: Options, *, number: int, cached: int = 0
) -> Continuation:
    vocab_size = model.config["vocab_size"]
    if not ids or min(ids) < 0 or max(ids) >= vocab_size:
        raise PromptError(
            f"A prompt needs token ids from 0 to {vocab_size - 1}; got {list(ids)[:8]}."
        )
    length, context = cached + len(ids), model.config["context_length"]
    if context is not None and length > context:
        raise PromptError(f"A prompt has {length} tokens; this model's context is {context}.")
    # The last token is predicted from a full context, and read no more.
    room = options.max_tokens if context is None else min(options.max_tokens, context + 1 - length)
    tokenizer = model.tokenizer
    stop_ids = {stop for stop in options.stops if isinstance(stop, int)}
    return Continuation(
        number=number,
        prompt_ids=tuple(ids),
        limit=room,
        at_limit="length" if room == options.max_tokens else "context",
        stop_ids=frozenset(stop_ids | end_tokens(tokenizer)),
        stop_texts=tuple(stop for stop in options.stops if isinstance(stop, str) and stop),
        detokenizer=detokenizer(tokenizer),
    )


def end_tokens(tokenizer: Any) -> set[int]:
    """The tokens with which a model ends its text."""
    if tokenizer is None:
        return set()
    single = getattr(tokenizer, "eos_token_id", None)
    return set(getattr(tokenizer, "eos_token_ids", ())) | (
        {single} if single is not None else set()
    )


def detokenizer(tokenizer: Any) -> Any:
    """A fresh streaming detokenizer of mlx-lm; None without a tokenizer."""
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    if tokenizer is None or isinstance(tokenizer, TokenizerWrapper):
        return tokenizer and tokenizer.detokenizer
    return TokenizerWrapper(tokenizer).detokenizer


def _chunks(
    model: "Running", row: Continuation, options: Options, state: Pass, cache: list[Any]
) -> Any:
    from mlx_lm.generate import generate_step, wired_limit

    # The caller's own stream: mlx-lm's would stay the current one between two tokens.
    stream = mx.default_stream(mx.default_device())
    steps = generate_step(
        mx.array(row.prompt_ids),
        model.model,
        stream,
        max_tokens=row.limit,
        sampler=options.sampler(model.config["vocab_size"], row.number),
        prompt_cache=cache,
        prefill_step_size=options.prefill_step_size,
        kv_bits=options.kv_bits,
        kv_group_size=group_size(model, options),
        quantized_kv_start=options.quantized_kv_start,
    )
    fired = state.fired.total()
    try:
        with wired_limit(model.model, [stream]):
            while row.finish_reason is None:
                with state.running():
                    token, logprobs = next(steps)
                text = row.add(token)
                yield Chunk(
                    text=text, token_id=token, logprobs=logprobs, finish_reason=row.finish_reason
                )
        state.require_fired()
    finally:
        model.hook_fires += state.fired.total() - fired
        steps.close()


def _run_batch(
    model: "Running",
    rows: Sequence[Continuation],
    options: Options,
    state: Pass,
    first: dict[int, mx.array] | None = None,
) -> None:
    """Continues prompts together; `first` receives each one's first distribution."""
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(
        model.model,
        prefill_step_size=options.prefill_step_size,
        stream=mx.default_stream(mx.default_device()),
    )
    samplers = [options.sampler(model.config["vocab_size"], row.number) for row in rows]
    if options.seed is None:
        samplers = samplers[:1] * len(rows)  # one call draws for the whole batch
    fired = state.fired.total()
    try:
        uids = generator.insert(
            [list(row.prompt_ids) for row in rows],
            [row.limit for row in rows],
            caches=[make_cache(model, options) for _ in rows],
            samplers=samplers,
        )
        going = dict(zip(uids, rows, strict=True))
        while going:
            with state.running():
                responses = generator.next_generated()
            for response in responses:
                row = going[response.uid]
                if first is not None:
                    first.setdefault(row.number, response.logprobs)
                row.add(response.token)
                if row.finish_reason is not None:
                    del going[response.uid]
            generator.remove([r.uid for r in responses if r.uid not in going])
        state.require_fired()
    finally:
        model.hook_fires += state.fired.total() - fired
        generator.close()
