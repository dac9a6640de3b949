"""The names of mlux 0.2 as thin functions over the engine.

`wrap_modules` was 0.2's way into a model: it hooks modules until `unwrap_modules` takes the hooks
off. Today `HookedModel.run_with_cache` and `run_with_hooks` do the same for one pass and clean up
by themselves, which is what new code should use.
"""

# First, so that the optimised BLAS is there before MLX.
from mlux.engine import HookedModel, sites

# isort: split
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine.arrays import snapshot
from mlux.engine.sums import softmax
from mlux.errors import HookError, ParameterError

Predicate = Callable[[str, Module], bool]


class HookWrapper:
    """A module with hooks, and what went in and came out of it last.

    Called itself, it runs the module with its hooks. `wrap_modules` makes the model do so.

    Example:
        >>> from mlx.nn import Linear
        >>> wrapper = HookWrapper(Linear(4, 2), "linear", lambda inputs, out, wrapper: out * 0)
        >>> float(mx.sum(wrapper(mx.ones((1, 4)))).item())
        0.0

    Attributes:
        wrapped: The module. Its attributes can be read from the wrapper too.
        hook_name: Its path.
        hook_fn: Called with (inputs, output, wrapper); a replacement of the output or None.
        pre_hook_fn: Called with (args, kwargs, wrapper); returns (args, kwargs).
        last_input: The arguments of the last call; None before the first.
        last_output: Its output, after the hook.
        capture_enabled: Whether the last two are kept.
    """

    def __init__(
        self,
        wrapped: Module,
        name: str = "",
        hook_fn: Callable[..., Any] | None = None,
        pre_hook_fn: Callable[..., Any] | None = None,
    ) -> None:
        self.wrapped = wrapped
        self.hook_name = name
        self.hook_fn = hook_fn
        self.pre_hook_fn = pre_hook_fn
        self.last_input: tuple[Any, ...] | None = None
        self.last_output: Any = None
        self.capture_enabled = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module with its hooks."""
        return self._run(type(self.wrapped).__call__, args, kwargs)

    def _run(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.pre_hook_fn is not None:
            args, kwargs = self.pre_hook_fn(args, kwargs, self)
        output = call(self.wrapped, *args, **kwargs)
        replacement = None if self.hook_fn is None else self.hook_fn(args, output, self)
        output = output if replacement is None else replacement
        if self.capture_enabled:
            self.last_input = args
            self.last_output = snapshot(output) if isinstance(output, mx.array) else output
        return output

    def clear_cache(self) -> None:
        """Forgets what went in and came out."""
        self.last_input = self.last_output = None

    def set_hook(self, hook_fn: Callable[..., Any] | None) -> None:
        """Sets or removes the hook."""
        self.hook_fn = hook_fn

    def set_pre_hook(self, pre_hook_fn: Callable[..., Any] | None) -> None:
        """Sets or removes the pre-hook."""
        self.pre_hook_fn = pre_hook_fn

    def enable_capture(self, enabled: bool = True) -> None:
        """Says whether inputs and outputs are kept."""
        self.capture_enabled = enabled

    def __repr__(self) -> str:
        """Path and class of the module."""
        return f"HookWrapper({self.hook_name!r}, wrapped={type(self.wrapped).__name__})"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["wrapped"], name)


def find_modules(model: Any, predicate: Predicate) -> list[tuple[str, Module]]:
    """The modules of a model for which `predicate(path, module)` is true, with their own paths.

    Args:
        model: A `HookedModel` or an mlx-lm model.
        predicate: What to look for.

    Example:
        >>> hooked = HookedModel.from_pretrained("demo")
        >>> [path for path, _ in find_modules(hooked, lambda p, m: p.endswith("0.self_attn"))]
        ['model.layers.0.self_attn']
    """
    named = _bare(model).named_modules()
    found = [(path, module) for path, module in named if path and predicate(path, module)]
    return sorted(found, key=lambda pair: _in_order(pair[0]))


def _in_order(path: str) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _bare(model: Any) -> Any:
    return model.model if isinstance(model, HookedModel) else model


def wrap_modules(
    model: Any,
    predicate: Predicate,
    hook_fn: Callable[..., Any] | None = None,
    pre_hook_fn: Callable[..., Any] | None = None,
) -> dict[str, HookWrapper]:
    """Hooks modules until `unwrap_modules`; the modules stay where and what they are.

    Args:
        model: A `HookedModel` or an mlx-lm model.
        predicate: Which modules; one that is hooked already is left alone.
        hook_fn: See `HookWrapper`.
        pre_hook_fn: See `HookWrapper`.

    Returns:
        The wrappers by path.

    Raises:
        HookError: If the predicate chose no module at all.

    Example:
        >>> hooked = HookedModel.from_pretrained("demo")
        >>> wrappers = wrap_modules(hooked, lambda path, module: path == "model.layers.2.mlp")
        >>> _ = hooked.forward("the capital of france is")
        >>> unwrap_modules(hooked)
        >>> collect_activations(wrappers)["model.layers.2.mlp"].shape
        (1, 6, 128)
    """
    found = find_modules(model, predicate)
    if not found:
        raise HookError("The predicate chose no module; see find_modules.")
    wrappers = {}
    for path, module in found:
        if not hasattr(type(module), "_mlux_original"):
            wrapper = HookWrapper(module, path, hook_fn, pre_hook_fn)
            module.__class__ = _wrapped_class(type(module), wrapper)
            wrappers[path] = wrapper
    return wrappers


def _wrapped_class(original: Any, wrapper: HookWrapper) -> Any:
    """A subclass of a module's class, for this one module, whose calls go through the wrapper."""

    def __call__(self: Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 # it is the method
        return wrapper._run(original.__call__, args, kwargs)

    names = {
        "__call__": __call__,
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "_mlux_original": original,
    }
    return type(original.__name__, (original,), names)


def unwrap_modules(model: Any) -> None:
    """Takes off what `wrap_modules` put on; every module has its own class again.

    Example:
        >>> hooked = HookedModel.from_pretrained("demo")
        >>> _ = wrap_modules(hooked, lambda path, module: path == "model.layers.2.mlp")
        >>> unwrap_modules(hooked)
        >>> type(hooked.layers[2].mlp).__bases__[0].__name__
        'Module'
    """
    for _, module in find_modules(model, lambda path, module: True):
        module.__class__ = getattr(type(module), "_mlux_original", type(module))


def collect_activations(wrappers: Mapping[str, HookWrapper]) -> dict[str, Any]:
    """What came out of each wrapped module last, by path; a module that never ran is left out.

    Example:
        >>> hooked = HookedModel.from_pretrained("demo")
        >>> wrappers = wrap_modules(hooked, lambda path, module: path == "model.layers.2.mlp")
        >>> _ = hooked.forward("mary lives in")
        >>> collect_activations(wrappers)["model.layers.2.mlp"].shape
        (1, 4, 128)
        >>> unwrap_modules(hooked)
    """
    kept = {path: wrapper.last_output for path, wrapper in wrappers.items()}
    return {path: output for path, output in kept.items() if output is not None}


def compute_attention_patterns(
    q: mx.array,
    k: mx.array,
    n_heads: int,
    n_kv_heads: int | None = None,
    softcap: float | None = None,
) -> mx.array:
    """Causal softmax attention of given projections, with scale d_head ** -0.5.

    No rotary embedding, norm or window enters: of a real model this is the true pattern only where
    it has none of them. `HookedModel.get_attention_patterns` is exact on every architecture.

    Args:
        q: [batch, seq, n_heads * d_head].
        k: [batch, seq, n_kv_heads * d_head].
        n_heads: Query heads.
        n_kv_heads: Key-value heads; by default as many.
        softcap: The scores become softcap * tanh(scores / softcap).

    Returns:
        [batch, n_heads, query, key], rows summing to 1.

    Example:
        >>> x = mx.zeros((1, 2, 8))
        >>> compute_attention_patterns(x, x, n_heads=2)[0, 0].tolist()
        [[1.0, 0.0], [0.5, 0.5]]
    """
    n_kv_heads = n_kv_heads or n_heads
    batch, seq, width = q.shape
    if width % n_heads or n_heads % n_kv_heads or k.shape[-1] * n_heads != width * n_kv_heads:
        raise ParameterError(
            f"q {list(q.shape)} and k {list(k.shape)} are not {n_heads} query heads and "
            f"{n_kv_heads} key-value heads of one width."
        )
    d_head = width // n_heads
    q = q.reshape(batch, seq, n_heads, d_head).swapaxes(1, 2)
    k = mx.repeat(k.reshape(batch, seq, n_kv_heads, d_head), n_heads // n_kv_heads, axis=2)
    scores = (q @ k.transpose(0, 2, 3, 1)) * d_head**-0.5
    if softcap is not None:
        scores = softcap * mx.tanh(scores / softcap)
    visible = mx.tri(seq, dtype=mx.bool_)
    return softmax(mx.where(visible, scores, -mx.inf))


def get_attention_info(model: Any) -> dict[str, Any]:
    """The sizes of a model's attention under the names of 0.2.

    Args:
        model: A `HookedModel` or an mlx-lm model.

    Returns:
        n_layers, n_heads, n_kv_heads, d_head, softcap (None without one) and layer_prefix
        (`model.layers`, which names the blocks of every architecture).

    Example:
        >>> get_attention_info(HookedModel.from_pretrained("demo"))["n_heads"]
        4
    """
    hooked = model if isinstance(model, HookedModel) else HookedModel(model, None)
    sizes = {name: hooked.config[name] for name in ("n_layers", "n_heads", "n_kv_heads", "d_head")}
    caps = (
        getattr(module, "attn_logit_softcapping", None)
        for _, module in find_modules(hooked, lambda path, module: True)
    )
    softcap = next((cap for cap in caps if cap is not None), None)
    return {**sizes, "softcap": softcap, "layer_prefix": "model.layers"}


def get_hidden_dim(hooked: HookedModel) -> int:
    """The width of the residual stream.

    Example:
        >>> get_hidden_dim(HookedModel.from_pretrained("demo"))
        128
    """
    width: int = hooked.config["d_model"]
    return width


def batch_get_activations(
    hooked: HookedModel, prompts: Sequence[str], layer: int
) -> list[mx.array]:
    """The residual stream after a block for each prompt, from one padded pass.

    Returns:
        One array a prompt, [seq, d_model], without the padding.

    Example:
        >>> hooked = HookedModel.from_pretrained("demo")
        >>> [a.shape for a in batch_get_activations(hooked, ["paris", "paris is"], 2)]
        [(2, 128), (3, 128)]
    """
    batch = hooked.to_batch(list(prompts))
    path = sites.resid_post(layer)
    _, cache = hooked.run_with_cache(batch.tokens, hooks=[path], positions=batch.last)
    rows = [cache[path][row, :length] for row, length in enumerate(batch.lengths)]
    mx.eval(rows)
    return rows
