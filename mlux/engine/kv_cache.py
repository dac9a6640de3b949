"""Key-value caches, as mlx-lm makes them for a model."""

from typing import TYPE_CHECKING, Any

from mlux.engine.sampling import Options
from mlux.errors import ParameterError

if TYPE_CHECKING:
    from mlux.engine.running import Running


KEPT = 4
"""Tokens at the beginning that a rotating cache never drops, as in mlx-lm."""


def make_cache(model: "Running", options: Options) -> list[Any]:
    """An empty key-value cache of a model, one entry a layer.

    With `max_kv_size` every layer that would keep all tokens rotates, also where the architecture
    brings its own cache, for which mlx-lm ignores the wish.

    Raises:
        ParameterError: If this model cannot have the cache that the options ask for.
    """
    from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

    cache: list[Any] = make_prompt_cache(model.model)
    if options.max_kv_size is not None:
        return [
            RotatingKVCache(options.max_kv_size, keep=KEPT) if type(layer) is KVCache else layer
            for layer in cache
        ]
    if options.kv_bits is not None and (
        any(isinstance(layer, RotatingKVCache) for layer in cache)
        or not any(hasattr(layer, "to_quantized") for layer in cache)
    ):
        raise ParameterError(
            f"The cache of this {model.config['model_type']} model cannot be quantised; "
            "leave kv_bits out."
        )
    return cache


def searches_keys(model: "Running") -> bool:
    """Whether a layer keeps more than one key-value cache, as sparse attention does."""
    from mlx_lm.models.cache import CacheList, KVCache, make_prompt_cache

    return any(
        isinstance(layer, CacheList) and sum(isinstance(c, KVCache) for c in layer.caches) > 1
        for layer in make_prompt_cache(model.model)
    )


def tokens_held(cache: Any) -> int:
    """How many tokens a cache holds."""
    offsets = (getattr(layer, "offset", 0) for layer in cache)
    return max((offset for offset in offsets if isinstance(offset, int)), default=0)


def group_size(model: "Running", options: Options) -> int:
    """The group size of a quantised cache, which has to divide the width of a head.

    Raises:
        ParameterError: If no group size fits.
    """
    width = model.config["d_head"]
    size = options.kv_group_size or (64 if width % 64 == 0 else 32)
    if options.kv_bits is not None and width % size:
        raise ParameterError(
            f"kv_bits needs heads whose width is a multiple of the group size {size}; "
            f"this model's are {width} wide."
        )
    return size
