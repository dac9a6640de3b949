"""One forward pass with every module call written down: what anatomy is learned from."""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine.arrays import first_array, snapshot
from mlux.engine.attention import AttentionCall, tapping
from mlux.engine.hooks import Call, Handler, handling
from mlux.engine.oddities import forward_arguments, tappable_call

TRACE_LENGTH = 9
"""Tokens in the traced pass: enough equations for the least squares, cheap on any model."""


@dataclass(eq=False, kw_only=True)
class ModuleCall:
    """One call of a module.

    Attributes:
        path: The module's path in the tree.
        parent: The call during which it happened; None for the model itself.
        args: The positional arguments, as the objects that were passed.
        kwargs: The arguments by name.
        arrays: Each argument that is an array, by its place or name, as a snapshot.
        given: The first argument that is an array, as the object that was passed.
        output: What it returned, as the object.
        value: A snapshot of the first array of the output.
        attention: The attention calls directly inside it, each with its z.
    """

    path: str
    module: Module
    parent: "ModuleCall | None"
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arrays: dict[int | str, mx.array]
    given: mx.array | None
    output: Any = None
    value: mx.array | None = None
    children: list["ModuleCall"] = field(default_factory=list)
    attention: list[tuple[AttentionCall, mx.array]] = field(default_factory=list)

    @property
    def given_value(self) -> mx.array | None:
        """A snapshot of the first argument that is an array."""
        return next(iter(self.arrays.values()), None)

    def argument(self, key: int | str) -> Any:
        """The argument at a place or of a name."""
        return self.args[key] if isinstance(key, int) else self.kwargs[key]

    def produced(self) -> list[mx.array]:
        """The array objects that it returned."""
        outputs = self.output if isinstance(self.output, tuple | list) else (self.output,)
        return [array for array in outputs if isinstance(array, mx.array)]

    def descendants(self) -> list["ModuleCall"]:
        """All calls inside this one, in the order in which they began."""
        return [call for child in self.children for call in (child, *child.descendants())]

    def attention_calls(self) -> list[tuple[AttentionCall, mx.array]]:
        """All attention calls inside this one."""
        inner = [pair for call in self.descendants() for pair in call.attention]
        return [*self.attention, *inner]


def trace(model: Module, tokens: mx.array) -> ModuleCall:
    """Runs the model once on tokens [batch, seq] and returns the tree of its module calls.

    What the calls hold is lazy: only what is looked at is computed.
    """
    stack: list[ModuleCall] = []
    roots: list[ModuleCall] = []

    def recorder(path: str, module: Module) -> Handler:
        substitute = tappable_call(module)

        def record(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            named = dict(enumerate(args)) | kwargs
            entry = ModuleCall(
                path=path,
                module=module,
                parent=stack[-1] if stack else None,
                args=args,
                kwargs=kwargs,
                arrays={k: snapshot(v) for k, v in named.items() if isinstance(v, mx.array)},
                given=first_array([*args, *kwargs.values()]),
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
        model(tokens, **forward_arguments(model))
    return roots[0]
