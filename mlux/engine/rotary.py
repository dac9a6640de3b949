"""Rotary embeddings that turn as config.json says.

Every rotary module that mlx-lm built is tried at a few positions, just within, beyond and far
beyond the original context, against the definition of its type, which is written out here as in
`transformers.modeling_rope_utils`: linear (kaiokendev), dynamic NTK (bloc97, emozilla), YaRN (Peng
et al. 2023), LongRoPE (Ding et al. 2024) and Llama 3.1's. On the architectures for which `make
parity` proves that this gives the numbers of transformers, a module that turns otherwise is
replaced when the model is loaded (`mend`).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.positional_encoding import RoPE
from mlx_lm.models import rope_utils

from mlux.engine.arrays import integers, numbers
from mlux.engine.rope_settings import ALIKE, PROVED, Settings, settings, text_part

_MODULES = (
    RoPE,
    rope_utils.SuScaledRoPE,
    rope_utils.Llama3RoPE,
    rope_utils.YarnRoPE,
    rope_utils.DynamicNTKScalingRoPE,
)
"""What mlx-lm builds for the types below; modules of its model files' own are left alone."""

_POSITIONS = (1, 7, 50, 400, 3_000, 20_000, 100_000)
"""Where rotations are compared, besides at the edge of the original context."""


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """By how much a rotary embedding turns.

    Attributes:
        periods: The positions that each pair of dimensions takes for one radian, [dims / 2].
        scale: What the turned dimensions of q and of k are multiplied with.
    """

    periods: tuple[float, ...]
    scale: float = 1.0


def rotation(told: Settings, dims: int, length: int) -> Rotation | None:
    """The definition.

    Args:
        told: From `settings`, with `rope_theta`.
        dims: How many dimensions of a head are turned.
        length: Tokens of the sequence so far; dynamic and longrope depend on it.

    Returns:
        None for a type that has no definition here.
    """
    kind, theta = told["rope_type"], told["rope_theta"]
    plain = [theta ** (i / dims) for i in range(0, dims, 2)]
    if kind == "default":
        return Rotation(periods=tuple(plain))
    if kind == "linear":
        return Rotation(periods=tuple(told["factor"] * period for period in plain))
    if kind == "dynamic":
        longest, factor = told["max_position_embeddings"], told["factor"]
        stretch = factor * max(length, longest) / longest - (factor - 1)
        base = theta * stretch ** (dims / (dims - 2))
        return Rotation(periods=tuple(base ** (i / dims) for i in range(0, dims, 2)))
    if kind == "llama3":
        return Rotation(periods=tuple(_llama3(told, period) for period in plain))
    if kind == "yarn":
        return _yarn(told, plain)
    if kind == "longrope":
        return _longrope(told, plain, length)
    return None


def _llama3(told: Settings, period: float) -> float:
    """Long waves are stretched, short ones kept, those between interpolated."""
    factor, low, high = told["factor"], told["low_freq_factor"], told["high_freq_factor"]
    waves = told["original_max_position_embeddings"] / (2 * math.pi * period)
    if waves < low:
        return float(period * factor)
    if waves > high:
        return period
    smooth = (waves - low) / (high - low)
    return float(period / ((1 - smooth) / factor + smooth))


def _yarn(told: Settings, plain: list[float]) -> Rotation:
    dims, theta = 2 * len(plain), told["rope_theta"]
    original = told["original_max_position_embeddings"]
    factor = told.get("factor") or told["max_position_embeddings"] / original

    def edge(turns: float) -> float:
        """The dimension whose wave fits so many times into the original context."""
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = edge(told.get("beta_fast") or 32), edge(told.get("beta_slow") or 1)
    if told.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    width = high - low if high != low else 0.001
    periods = []
    for i, period in enumerate(plain):
        stretched = min(max((i - low) / width, 0.0), 1.0)
        periods.append(period / (stretched / factor + 1 - stretched))
    scale = told.get("attention_factor")
    if scale is None:
        own, all_dim = told.get("mscale"), told.get("mscale_all_dim")
        both = own and all_dim
        scale = _mscale(factor, own) / _mscale(factor, all_dim) if both else _mscale(factor, 1)
    return Rotation(periods=tuple(periods), scale=scale)


def _mscale(factor: float, mscale: Any) -> float:
    return 1.0 if factor <= 1 else 0.1 * float(mscale) * math.log(factor) + 1.0


def _longrope(told: Settings, plain: list[float], length: int) -> Rotation:
    original = told["original_max_position_embeddings"]
    factors = told["long_factor" if length > original else "short_factor"]
    factor = told.get("factor") or told["max_position_embeddings"] / original
    scale = told.get("attention_factor")
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    periods = tuple(period * by for period, by in zip(plain, factors, strict=True))
    return Rotation(periods=periods, scale=scale)


class Rotary(Module):
    """Turns queries and keys by the definition; it stands where mlx-lm's module did."""

    def __init__(self, told: Settings, dims: int, traditional: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # MLX's
        self.dims = dims
        self.traditional = traditional
        self._told = dict(told)
        self._known: dict[int, tuple[mx.array, float]] = {}

    def _turns(self, length: int) -> tuple[mx.array, float]:
        """The periods, [dims / 2], and the scale at a length."""
        kind = self._told["rope_type"]
        if kind == "longrope":
            length = int(length > self._told["original_max_position_embeddings"]) * length
        elif kind == "dynamic":
            length = max(length, self._told["max_position_embeddings"])
        else:
            length = 0
        if kind != "dynamic" and (known := self._known.get(min(length, 1))):
            return known
        found = rotation(self._told, self.dims, length)
        assert found is not None
        turns = mx.array(found.periods, dtype=mx.float32), found.scale
        if kind != "dynamic":
            self._known[min(length, 1)] = turns
        return turns

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """Queries or keys [batch, n_heads, seq, d_head], whose first position is `offset`."""
        begin = offset if isinstance(offset, int) else _furthest(offset)
        periods, scale = self._turns(begin + x.shape[-2])
        if scale != 1.0:
            x = x.at[..., : self.dims].multiply(scale)
        return mx.fast.rope(
            x, self.dims, traditional=self.traditional, base=None, scale=1.0, offset=offset,
            freqs=periods,
        )  # fmt: skip


def _furthest(offset: mx.array) -> int:
    position: int = integers(mx.max(offset))
    return position


@dataclass(frozen=True, kw_only=True)
class Place:
    """A rotary module of a model.

    Attributes:
        owner: The module that holds it, as its attribute `name`.
        path: Its path in the model.
        told: The settings of its layer; None if config.json has none for it.
        dims: How many dimensions of a head the settings turn.
    """

    owner: Module
    name: str
    path: str
    told: Settings | None
    dims: int

    @property
    def module(self) -> Any:
        """The rotary module that is there now."""
        return self.owner[self.name]


def places(model: Module, config: Mapping[str, Any]) -> Iterator[Place]:
    """The rotary modules of the blocks, each with what config.json says of its layer.

    Args:
        model: The mlx-lm model.
        config: The content of config.json.
    """
    found, text = settings(config), text_part(config)
    kinds = _kinds(model, text) if found and ALIKE not in found else None
    for layer, block in enumerate(model.layers):
        told = found.get(ALIKE if kinds is None else kinds[layer])
        for path, owner in block.named_modules():
            for name, module in owner.children().items():
                if isinstance(module, (*_MODULES, Rotary)):
                    where = f"layers.{layer}.{path}.{name}".replace("..", ".")
                    yield Place(
                        owner=owner,
                        name=name,
                        path=where,
                        told=_with_base(told, model, module),
                        dims=_dims(told, text, module),
                    )


def _kinds(model: Module, text: Mapping[str, Any]) -> list[str]:
    """The kind of each layer, where the settings differ by it."""
    if listed := text.get("layer_types"):
        return list(listed)
    arguments = _arguments(model)
    if listed := getattr(arguments, "layer_types", None):
        return list(listed)
    stated: Any = text.get("sliding_window_pattern")
    every: int = stated or getattr(arguments, "sliding_window_pattern", 1)
    kinds = ("sliding_attention", "full_attention")
    return [kinds[(layer + 1) % every == 0] for layer in range(len(model.layers))]


def _arguments(model: Module) -> Any:
    """The arguments of the language model, innermost where several modules keep some."""
    named: list[tuple[str, Any]] = model.named_modules()  # type: ignore[no-untyped-call] # MLX's
    kept = [
        module.args for _, module in named if hasattr(getattr(module, "args", None), "__dict__")
    ]
    return next((a for a in kept if hasattr(a, "rope_theta")), kept[0] if kept else None)


def _with_base(told: Settings | None, model: Module, module: Any) -> Settings | None:
    """The settings with the base that the model file assumes where config.json states none."""
    if told is None or "rope_theta" in told:
        return told
    base = getattr(module, "base", None) or getattr(_arguments(model), "rope_theta", 10_000.0)
    return {**told, "rope_theta": base}


def _dims(told: Settings | None, text: Mapping[str, Any], module: Any) -> int:
    built: int = module.dims if hasattr(module, "dims") else module.dim
    part = (told or {}).get("partial_rotary_factor")
    if part is None or text.get("qk_rope_head_dim"):
        return built
    heads = text.get("num_attention_heads")
    width = text.get("head_dim") or (text["hidden_size"] // heads if heads else None)
    return int(width * part) if width else built


def mend(model: Module, config: Mapping[str, Any]) -> int:
    """Replaces the rotary modules that turn otherwise than config.json says.

    Args:
        model: The mlx-lm model.
        config: The content of config.json.

    Returns:
        How many were replaced; 0 on architectures that are not of `PROVED`.
    """
    if text_part(config).get("model_type") not in PROVED:
        return 0
    wrong = [place for place in places(model, config) if (error(place) or 0.0) > 1.0]
    for place in wrong:
        assert place.told is not None
        traditional = getattr(place.module, "traditional", False)
        setattr(place.owner, place.name, Rotary(place.told, place.dims, traditional))
    return len(wrong)


def error(place: Place) -> float | None:
    """How far a module's output is from the definition, in units of what rounding explains.

    None if config.json has no settings for it, or its type no definition here.
    """
    told, module = place.told, place.module
    if told is None or rotation(told, place.dims, 1) is None:
        return None
    edge = told.get("original_max_position_embeddings") or told.get("max_position_embeddings") or 1
    built: int = module.dims if hasattr(module, "dims") else module.dim
    width = max(place.dims, built)
    probe = mx.sin(mx.arange(1, width + 1, dtype=mx.float32)).reshape(1, 1, 1, width) + 2.0
    positions = sorted({*_POSITIONS, edge - 1, edge, edge + 1})
    turned = [module(probe, offset=position).reshape(-1) for position in positions]
    mx.eval(turned)
    worst = 0.0
    traditional = getattr(module, "traditional", False)
    for position, output in zip(positions, turned, strict=True):
        told_turn = rotation(told, place.dims, position + 1)
        assert told_turn is not None
        expected = _turned(numbers(probe.reshape(-1)), told_turn, position, traditional)
        apart = max(abs(a - b) for a, b in zip(output.tolist(), expected, strict=True))
        # An angle is known to a few units in the last place of a float32 product.
        worst = max(worst, apart / (1e-4 + position * 2e-6))
    return worst


def _turned(x: list[float], by: Rotation, position: int, traditional: bool) -> list[float]:
    """One head at one position, in Python's own floats."""
    half = len(by.periods)
    y = list(x)
    for i, period in enumerate(by.periods):
        first, second = (2 * i, 2 * i + 1) if traditional else (i, i + half)
        angle = position / period
        cos, sin = by.scale * math.cos(angle), by.scale * math.sin(angle)
        y[first] = x[first] * cos - x[second] * sin
        y[second] = x[first] * sin + x[second] * cos
    return y
