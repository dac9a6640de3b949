"""One forward pass with hooks: what is read and edited where, and what fired."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine import sites
from mlux.engine.arrays import first_array, snapshot
from mlux.engine.attention import AttentionCall, tapping
from mlux.engine.hooks import Call, Handler, handling
from mlux.engine.oddities import tappable_call
from mlux.engine.places import Layout
from mlux.engine.unedited import where_edited
from mlux.errors import HookError


@dataclass(frozen=True, kw_only=True)
class HookWrapper:
    """Tells a hook where it is.

    Attributes:
        path: The name under which the hook was given.
        layer: The block's index; None outside the blocks.
        head: The head's index; None where it is not one head.
        module: The module that runs there.
    """

    path: str
    layer: int | None
    head: int | None
    module: Module

    @property
    def hook_name(self) -> str:
        """The path, under its name in mlux 0.2."""
        return self.path

    @property
    def wrapped(self) -> Module:
        """The module, under its name in mlux 0.2."""
        return self.module


Hook = Callable[[tuple[Any, ...], Any, HookWrapper], Any]
"""hook(inputs, output, wrapper) → a replacement of the output, or None to leave it."""
PreHook = Callable[[tuple[Any, ...], dict[str, Any], HookWrapper], Any]
"""pre_hook(args, kwargs, wrapper) → (args, kwargs), or None to leave them."""


@dataclass(frozen=True, kw_only=True)
class _Action:
    """A hook with its place. A capture is an action whose hook only looks."""

    hook: Hook
    wrapper: HookWrapper
    kind: sites.Kind | None
    terms: tuple[tuple[Module, float], ...]
    stream: int | str | None
    checked: bool


@dataclass(eq=False, kw_only=True)
class Pass:
    """The hooks of one forward pass, installed by `running` and counted as they fire.

    Attributes:
        captured: Path → snapshot, filled while the pass runs; what flows on, after all edits.
        fired: Path → how often its hooks fired.
    """

    layout: Layout
    captured: dict[str, mx.array] = field(default_factory=dict)
    fired: Counter[str] = field(default_factory=Counter)
    _before: dict[int, list[tuple[PreHook, HookWrapper]]] = field(default_factory=dict)
    _inputs: dict[int, list[_Action]] = field(default_factory=dict)
    _outputs: dict[int, list[_Action]] = field(default_factory=dict)
    _taps: dict[int, list[_Action]] = field(default_factory=dict)
    _modules: dict[int, Module] = field(default_factory=dict)
    _addends: set[int] = field(default_factory=set)
    _returned: dict[int, mx.array] = field(default_factory=dict)
    _wanted: list[str] = field(default_factory=list)
    _layer: int | None = None

    def add_hook(self, path: str, hook: Hook, *, checked: bool = True) -> None:
        """Adds a hook; several on one path run in the order in which they were added.

        Args:
            path: A canonical name or a module's own path.
            hook: What to do there.
            checked: Whether a replacement must have the shape and dtype of what it replaces.

        Raises:
            UnknownNameError: If the model has no such path.
            HookError: If the model lacks what the path names; the message says why.
        """
        place = self.layout.locate(path)
        wrapper = HookWrapper(path=path, layer=place.layer, head=place.head, module=place.module)
        action = _Action(
            hook=hook,
            wrapper=wrapper,
            kind=place.kind,
            terms=place.terms,
            stream=place.stream,
            checked=checked,
        )
        self._wanted.append(path)
        if place.kind in sites.TAPS:
            assert place.layer is not None
            self._taps.setdefault(place.layer, []).append(action)
        else:
            table = self._outputs if place.stream is None else self._inputs
            table.setdefault(id(place.module), []).append(action)
            self._modules[id(place.module)] = place.module
            for module, _ in place.terms:
                self._modules[id(module)] = module
                self._addends.add(id(module))

    def add_pre_hook(self, path: str, hook: PreHook) -> None:
        """Adds a hook that sees and may change the arguments of the module at a path.

        Raises:
            UnknownNameError: If the model has no such path.
            HookError: If the path names no module of its own.
        """
        place = self.layout.locate(path)
        if place.kind in (*sites.TAPS, "resid_pre"):
            raise HookError(f"A pre-hook needs a module; {path!r} is not one. Use a hook instead.")
        wrapper = HookWrapper(path=path, layer=place.layer, head=place.head, module=place.module)
        self._wanted.append(path)
        self._before.setdefault(id(place.module), []).append((hook, wrapper))
        self._modules[id(place.module)] = place.module

    def add_captures(self, paths: Iterable[str]) -> None:
        """Keeps what flows on at each path; added after the hooks, it sees their edits."""
        # Not a method: a pass that refers to itself would hold its arrays until Python looks for
        # cycles, and the memory of one prompt would still be there while the next one runs.
        for path in dict.fromkeys(paths):
            self.add_hook(path, _capture_into(self.captured))

    def run(self, forward: Callable[[], Any]) -> Any:
        """Runs a forward pass with the hooks installed.

        Raises:
            HookError: If a hook never fired, or returned something of another shape or dtype.
        """
        with self.running():
            output = forward()
        self.require_fired()
        return output

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs the body with the hooks installed, in this thread; may be entered repeatedly."""
        self._layer = None
        handlers = {key: (module, self._handler(key)) for key, module in self._modules.items()}
        for layer in self._taps:
            self._follow(handlers, layer)
        with handling(handlers), tapping(self._tap if self._taps else None):
            yield

    def require_fired(self) -> None:
        """Raises HookError if a hook never fired."""
        silent = [path for path in self._wanted if not self.fired[path]]
        if silent:
            raise HookError(
                f"The hook on {silent[0]!r} never fired: the model did not run it in this pass."
            )

    def _follow(self, handlers: dict[int, tuple[Module, Handler]], layer: int) -> None:
        """Makes a tapped mixer say when it runs, so that the tap knows whose attention it sees."""
        mixer = self.layout.mixer(layer)
        inner = self._handler(id(mixer))
        substitute = tappable_call(mixer)

        def follow(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            before, self._layer = self._layer, layer
            inside = call if substitute is None else partial(substitute, mixer)
            try:
                return inner(inside, args, kwargs)
            finally:
                self._layer = before

        handlers[id(mixer)] = (mixer, follow)

    def _handler(self, key: int) -> Handler:
        def handle(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            for pre_hook, wrapper in self._before.get(key, ()):
                self.fired[wrapper.path] += 1
                args, kwargs = _checked_arguments(
                    pre_hook(args, kwargs, wrapper), args, kwargs, wrapper
                )
            for action in self._inputs.get(key, ()):
                args, kwargs = self._edit_input(action, args, kwargs)
            output = call(*args, **kwargs)
            for action in self._outputs.get(key, ()):
                output = self._edit_output(action, args, output)
            if key in self._addends:
                array = first_array(output)
                assert array is not None
                self._returned[key] = array
            return output

        return handle

    def _edit_input(
        self, action: _Action, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        key = action.stream
        if isinstance(key, int):
            return (*args[:key], self._edit_stream(action, (), args[key]), *args[key + 1 :]), kwargs
        assert key is not None
        return args, {**kwargs, key: self._edit_stream(action, (), kwargs[key])}

    def _edit_stream(self, action: _Action, inputs: tuple[Any, ...], value: mx.array) -> mx.array:
        """Several streams are shown to a hook side by side, [batch, seq, n_streams · d_model]."""
        axis = self.layout.anatomy.stream_axis
        if axis is None:
            edited: mx.array = self._apply(action, inputs, value)
            return edited
        stacked = mx.moveaxis(value, axis, 2)  # [batch, seq, n_streams, d_model]
        shown = stacked.flatten(2, 3)
        edited = self._apply(action, inputs, shown)
        if edited is shown:
            return value
        return mx.moveaxis(edited.reshape(*edited.shape[:2], *stacked.shape[2:]), 2, axis)

    def _edit_output(self, action: _Action, args: tuple[Any, ...], output: Any) -> Any:
        if action.kind is None:  # a module's own path: the hook sees what the module returns
            return self._apply(action, args, output)
        array = _first_array(output, action.wrapper)
        if action.terms:
            edited = self._edit_sum(action, args, array)
        elif action.kind in ("resid_pre", "resid_post"):
            edited = self._edit_stream(action, args, array)
        else:
            edited = self._apply(action, args, array)
        return output if edited is array else _with_first_array(output, array, edited)

    def _edit_sum(self, action: _Action, args: tuple[Any, ...], last: mx.array) -> mx.array:
        """Shows a hook the sum of what modules add; what it changes, the last one adds."""
        *before, (_, factor) = action.terms
        if not before and factor == 1.0:
            edited: mx.array = self._apply(action, args, last)
            return edited
        rest = [self._returned[id(module)] * weight for module, weight in before]
        added = last * factor
        for addend in rest:
            added = added + addend
        edited = self._apply(action, args, added)
        if edited is added:
            return last
        for addend in rest:
            edited = edited - addend
        return edited / factor

    def _apply(self, action: _Action, inputs: tuple[Any, ...], value: Any) -> Any:
        """Runs a hook and returns its replacement, or the value object itself for None."""
        self.fired[action.wrapper.path] += 1
        replacement = action.hook(inputs, value, action.wrapper)
        if replacement is None:
            return value
        if action.checked:
            _check_replacement(value, replacement, action.wrapper.path)
        return replacement

    def _tap(self, call: AttentionCall) -> mx.array:
        actions = self._taps.get(self._layer, ()) if self._layer is not None else ()
        by_kind: dict[sites.Kind | None, list[_Action]] = {}
        for action in actions:
            by_kind.setdefault(action.kind, []).append(action)
        call = self._edit_projections(call, by_kind)
        z = self._attend(call, by_kind.get("pattern", ()))
        inputs = (call.q, call.k, call.v)
        for action in by_kind.get("z", ()):
            z = self._apply(action, inputs, z)
        for action in by_kind.get("head", ()):
            head = action.wrapper.head
            assert head is not None
            one = z[:, head]  # [batch, query, d_head]
            edited = self._apply(action, inputs, one)
            if edited is not one:
                z = mx.concatenate([z[:, :head], edited[:, None], z[:, head + 1 :]], axis=1)
        return z

    def _edit_projections(
        self, call: AttentionCall, by_kind: dict[sites.Kind | None, list[_Action]]
    ) -> AttentionCall:
        q, k, v = call.q, call.per_query_head(call.k), call.per_query_head(call.v)
        edited = {}
        for name, value in (("q", q), ("k", k), ("v", v)):
            edited[name] = value
            for action in by_kind.get(name, ()):  # type: ignore[call-overload] # the names are kinds
                edited[name] = self._apply(action, (), edited[name])
        if edited["q"] is not q:
            call = replace(call, q=edited["q"])
        if edited["k"] is not k or edited["v"] is not v:
            call = replace(call, k=edited["k"], v=edited["v"])
        return call

    def _attend(self, call: AttentionCall, actions: Sequence[_Action]) -> mx.array:
        if not actions:
            return call.fused(call)
        pattern, z = call.pattern_and_z()
        edited = pattern
        for action in actions:
            edited = self._apply(action, (call.q, call.k, call.v), edited)
        # A pattern that was only looked at leaves the model's own result, bit for bit.
        if edited is pattern:
            return z
        return where_edited(call.attend(edited), z, before=pattern, after=edited)


def _capture_into(captured: dict[str, mx.array]) -> Hook:
    def capture(inputs: tuple[Any, ...], output: Any, wrapper: HookWrapper) -> None:
        array = output if isinstance(output, mx.array) else _first_array(output, wrapper)
        captured[wrapper.path] = snapshot(array)

    return capture


def _first_array(output: Any, wrapper: HookWrapper) -> mx.array:
    array = first_array(output)
    if array is None:
        raise HookError(
            f"{wrapper.path!r} returned {type(output).__name__}, not an array or a tuple with one."
        )
    return array


def _with_first_array(output: Any, array: mx.array, edited: mx.array) -> Any:
    if output is array:
        return edited
    return type(output)(edited if item is array else item for item in output)


def _checked_arguments(
    returned: Any, args: tuple[Any, ...], kwargs: dict[str, Any], wrapper: HookWrapper
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if returned is None:
        return args, kwargs
    match returned:
        case (tuple() as new_args, dict() as new_kwargs):
            return new_args, new_kwargs
    raise HookError(
        f"The pre-hook on {wrapper.path!r} returned {type(returned).__name__}; "
        "expected (args, kwargs) or None."
    )


def _check_replacement(value: Any, replacement: Any, path: str) -> None:
    if not isinstance(value, mx.array):
        return
    if not isinstance(replacement, mx.array):
        raise HookError(
            f"The hook on {path!r} returned {type(replacement).__name__}; "
            "expected an array of the same shape, or None to change nothing."
        )
    if replacement.shape != value.shape:
        raise HookError(
            f"The hook on {path!r} returned shape {list(replacement.shape)}; "
            f"expected {list(value.shape)}."
        )
    if replacement.dtype != value.dtype:
        raise HookError(
            f"The hook on {path!r} returned {replacement.dtype}; expected {value.dtype}. "
            "Return value.astype(output.dtype), so that the model keeps its precision."
        )
