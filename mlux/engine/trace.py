"""One forward pass with every module call written down: what anatomy is learned from."""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine.arrays import snapshot
from mlux.engine.attention import AttentionCall, tapping
from mlux.engine.hooks import Call, Handler, handling
from mlux.engine.oddities import tappable_call


@dataclass(eq=False, kw_only=True)
class ModuleCall:
    """One call of a module.

    Attributes:
        path: The module's path in the tree.
        parent: The call during which it happened; None for the model itself.
        given: The first argument that is an array, as the object that was passed.
        output: What it returned, as the object.
        value: A snapshot of the first array of the output.
        attention: The attention calls directly inside it, each with its z.
    """

    path: str
    module: Module
    parent: "ModuleCall | None"
    given: mx.array | None
    given_value: mx.array | None
    output: Any = None
    value: mx.array | None = None
    children: list["ModuleCall"] = field(default_factory=list)
    attention: list[tuple[AttentionCall, mx.array]] = field(default_factory=list)

    def descendants(self) -> list["ModuleCall"]:
        """All calls inside this one, in the order in which they began."""
        return [call for child in self.children for call in (child, *child.descendants())]

    def attention_calls(self) -> list[tuple[AttentionCall, mx.array]]:
        """All attention calls inside this one."""
        inner = [pair for call in self.descendants() for pair in call.attention]
        return [*self.attention, *inner]


def first_array(value: Any) -> mx.array | None:
    """The array that a module takes or returns: itself, or the first one of a tuple."""
    if isinstance(value, mx.array):
        return value
    if isinstance(value, tuple | list):
        return next((item for item in value if isinstance(item, mx.array)), None)
    return None


def trace(model: Module, tokens: mx.array) -> ModuleCall:
    """Runs the model once on tokens [batch, seq] and returns the tree of its module calls.

    What the calls hold is lazy: only what is looked at is computed.
    """
    stack: list[ModuleCall] = []
    roots: list[ModuleCall] = []

    def recorder(path: str, module: Module) -> Handler:
        substitute = tappable_call(module)

        def record(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = first_array([*args, *kwargs.values()])
            entry = ModuleCall(
                path=path,
                module=module,
                parent=stack[-1] if stack else None,
                given=given,
                given_value=None if given is None else snapshot(given),
            )
            (stack[-1].children if stack else roots).append(entry)
            stack.append(entry)
            try:
                output = (
                    substitute(module, *args, **kwargs) if substitute else call(*args, **kwargs)
                )
            finally:
                stack.pop()
            array = first_array(output)
            entry.output = output
            entry.value = None if array is None else snapshot(array)
            return output

        return record

    def tap(call: AttentionCall) -> mx.array:
        z = call.fused(call)
        if stack:
            stack[-1].attention.append((call, z))
        return z

    named: list[tuple[str, Module]] = model.named_modules()  # type: ignore[no-untyped-call] # MLX's
    handlers = {id(module): (module, recorder(path, module)) for path, module in named}
    with handling(handlers), tapping(tap):
        model(tokens)
    return roots[0]
