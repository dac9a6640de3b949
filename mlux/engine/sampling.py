"""How to generate: the options, and how the next token is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import mlx.core as mx

from mlux.engine.arrays import integers
from mlux.errors import ParameterError, UnknownNameError
from mlux.limits import check

Sampler = Callable[[mx.array], mx.array]
"""sampler(logprobs [rows, vocab_size]) → token ids [rows]."""
_COLDEST = 1e-4


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to generate.

    Attributes:
        max_tokens: The most tokens to generate.
        temperature: 0 takes the most probable token; more draws from softmax(logits / temperature).
            Below 1e-4 is taken as 0, since half precision cannot divide by it.
        top_p: Draw from the most probable tokens that hold this much probability; 1 from all, 0
            from the most probable alone.
        top_k: Draw from this many most probable tokens; 0 from all.
        min_p: Draw from tokens at least this probable, relative to the most probable; 0 from all.
        seed: What is drawn; row i of a batch draws with seed + i. None: MLX's own random state.
        stop: Texts and token ids that end the text; they are not part of it.
        kv_bits: Bits of a quantised key-value cache; None keeps the model's precision.
        kv_group_size: Its group size; by default the largest of 64 and 32 that divides d_head.
        quantized_kv_start: From how many tokens on the cache is quantised.
        max_kv_size: The most tokens that a rotating cache keeps; None keeps all.
        prefill_step_size: How many tokens of the prompt are read at once.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | int | Sequence[str | int] = ()
    kv_bits: int | None = None
    kv_group_size: int | None = None
    quantized_kv_start: int = 0
    max_kv_size: int | None = None
    prefill_step_size: int = 2048

    def __post_init__(self) -> None:
        """Raises ParameterError for a value out of its range."""
        for option in fields(self):
            if option.name not in ("seed", "stop"):
                check(option.name, getattr(self, option.name))
            if option.default is not None and getattr(self, option.name) is None:
                raise ParameterError(f"{option.name} is None; leave it out for its default.")
        check("drawing_seed", self.seed, called="seed")
        for stop in self.stops:
            if isinstance(stop, bool) or not isinstance(stop, str | int):
                raise ParameterError(f"stop has {stop!r}; expected texts and token ids.")
        if self.kv_bits is not None and self.max_kv_size is not None:
            raise ParameterError(
                "A rotating cache cannot be quantised: no kv_bits with max_kv_size."
            )

    @classmethod
    def of(cls, **values: Any) -> "Options":
        """Options by name.

        Raises:
            UnknownNameError: If there is no such option.
        """
        known = [option.name for option in fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownNameError("generation option", name, known)
        return cls(**values)

    @property
    def stops(self) -> tuple[str | int, ...]:
        """The stops as a tuple, also where there is only one."""
        if isinstance(self.stop, str | int):
            return (self.stop,)
        if not isinstance(self.stop, Sequence):
            raise ParameterError(f"stop is {self.stop!r}; expected texts and token ids.")
        return tuple(self.stop)

    def sampler(self, vocab_size: int, row: int = 0) -> Sampler:
        """How one row of a batch draws its tokens."""
        from mlx_lm.sample_utils import make_sampler

        # mlx-lm takes a top_p of 0 as no limit, and one that rounding swallows leaves no token. The
        # most probable token has at least 1 / vocab_size, so below that it is the only one.
        greedy = self.temperature < _COLDEST or self.top_p * vocab_size < 1
        draw: Sampler = make_sampler(
            temp=0.0 if greedy else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k if self.top_k < vocab_size else 0,
            min_p=self.min_p,
        )
        if greedy or self.seed is None:
            return draw
        return _seeded(draw, self.seed + row)


def _seeded(draw: Sampler, seed: int) -> Sampler:
    """A sampler with a random state of its own, so that rows and streams do not disturb each other.

    It draws what mlx-lm draws after `mx.random.seed(seed)`, and leaves MLX's own state as it was.
    """
    state = seed

    def sampler(logprobs: mx.array) -> mx.array:
        nonlocal state
        before = _random_state()
        mx.random.seed(state)
        try:
            return draw(logprobs)
        finally:
            state = _random_state()
            mx.random.seed(before)

    return sampler


def _random_state() -> int:
    """The seed that brings MLX's random state back: a key is the two halves of its seed."""
    state: Any = mx.random.state  # its stub says object
    high, low = integers(state[0])
    return int(high) << 32 | int(low)
