"""A model under test: the passes that several lines of a certificate are read from."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlux.engine import sites
from mlux.engine.arrays import numbers
from mlux.engine.cache import ActivationCache
from mlux.engine.oddities import forward_arguments
from mlux.engine.passes import Hook, HookWrapper

if TYPE_CHECKING:
    from mlux.engine.model import HookedModel

LENGTH = 8
"""Tokens of the prompt."""

ROUNDING = {mx.float32: 1e-4, mx.float16: 1e-2, mx.bfloat16: 6e-2}
"""What rounding may change the output of a whole model by, relative to its largest entry."""

KINDS: tuple[sites.Kind, ...] = (
    "embed", "resid_pre", "resid_post", "attn_out", "mlp_out", *sites.TAPS, "norm",
)  # fmt: skip


def product_error() -> float:
    """How far this device's float32 products are from the CPU's, relative to the largest entry.

    MLX multiplies in TF32 on CUDA, unless `MLX_ENABLE_TF32=0`: about 1e-3 instead of 1e-7.
    """
    a = mx.sin(mx.arange(64 * 64, dtype=mx.float32)).reshape(64, 64)
    exact = mx.matmul(a, a, stream=mx.cpu)
    return float(mx.max(mx.abs(a @ a - exact)) / mx.max(mx.abs(exact)))


@dataclass(eq=False)
class Checkup:
    """A model under test.

    Attributes:
        model: The model.
        passes: How many forward passes were run.
    """

    model: "HookedModel"
    passes: int = field(default=0)

    @cached_property
    def tokens(self) -> mx.array:
        """Token ids spread over the vocabulary, [1, LENGTH]."""
        size: int = self.model.config["vocab_size"]
        return (mx.arange(2, LENGTH + 2)[None] * max(1, size // (LENGTH + 4))) % size

    @cached_property
    def rounding(self) -> float:
        """The relative error that the dtype and the device explain."""
        dtype = self.model.resid_dtype
        if dtype == mx.float32 and product_error() > 1e-5:
            dtype = mx.float16  # TF32 products keep as many digits as float16
        return ROUNDING.get(dtype, ROUNDING[mx.bfloat16])

    @cached_property
    def bare(self) -> mx.array:
        """The logits of the model without mlux."""
        return self.plain(self.tokens)

    @cached_property
    def paths(self) -> dict[sites.Kind, list[str]]:
        """Every canonical path of the model by kind."""
        found: dict[sites.Kind, list[str]] = {kind: [] for kind in KINDS}
        for path in self.model.available_hooks():
            if site := sites.parse(path):
                found[site.kind].append(path)
        return found

    @cached_property
    def joined(self) -> dict[str, mx.array]:
        """What goes into and out of each output projection; filled with `read`."""
        return {}

    @cached_property
    def read(self) -> tuple[mx.array, ActivationCache]:
        """The logits and every canonical site, from one pass."""

        def keep(inputs: tuple[Any, ...], output: Any, wrapper: HookWrapper) -> None:
            self.joined[wrapper.path] = inputs[0][...]
            self.joined[f"{wrapper.path} output"] = output[...]

        state = self.model._pass()
        for block in self.model.anatomy.blocks:
            if block.o_proj is not None:
                state.add_hook(block.o_proj, keep)
        state.add_captures(path for paths in self.paths.values() for path in paths)
        self.passes += 1
        logits = self.model._run(state, self.tokens)
        mx.eval(logits, state.captured, self.joined)
        return logits, ActivationCache(state.captured)

    def plain(self, tokens: mx.array, cache: Any = None) -> mx.array:
        """The logits of the model itself."""
        self.passes += 1
        model = self.model.model
        arguments = forward_arguments(model) if cache is None else {"cache": cache}
        logits: mx.array = model(tokens, **arguments)
        mx.eval(logits)
        return logits

    def hooked(self, *hooks: tuple[str, Hook]) -> mx.array:
        """The logits with hooks."""
        self.passes += 1
        return self.model.run_with_hooks(self.tokens, hooks=hooks)


def apart(found: mx.array, expected: mx.array) -> float:
    """The largest difference, relative to the largest expected value; infinities must agree."""
    found, expected = found.astype(mx.float32), expected.astype(mx.float32)
    finite = mx.isfinite(expected)
    if not mx.array_equal(finite, mx.isfinite(found)):
        return float("inf")
    scale = mx.max(mx.abs(mx.where(finite, expected, 0.0)))
    difference = mx.max(mx.where(finite, mx.abs(found - expected), 0.0))
    error: float = numbers(difference / mx.maximum(scale, 1e-30))
    return error
