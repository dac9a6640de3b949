"""LoRA adapters as PEFT publishes them, merged into a model's weights before it is built.

A checkpoint holds the names and shapes that an adapter was trained on; only mlx-lm's `sanitize`
renames, fuses, splits and stacks them. So what the adapter changes is added to the checkpoint's
arrays just before `sanitize`, and one rule serves every architecture. The arithmetic is float32:

    W' = W + s · B A                    LoRA, with s = alpha / r, or alpha / √r (rsLoRA)
    W' = m · (W + s · B A) / ‖·‖        DoRA, with the norm of every output's row

Source: Hu et al. (2021), LoRA; Kalajdzievski (2023), rsLoRA; Liu et al. (2024), DoRA; PEFT.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlux.engine.arrays import main_dtype
from mlux.errors import ModelError

Weights = dict[str, mx.array]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_UNMAPPED = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora",
    "use_qalora", "velora_config",
)  # fmt: skip
"""Options under which an adapter is more than matrices added to matrices."""

_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of the ways to initialise that change the base model, too."""

_WRAPPERS = frozenset(
    {"model", "language_model", "text_model", "transformer", "gpt_neox", "backbone"}
)
"""Parts of a name by which one checkpoint of a model differs from another."""

_NOT_TEXT = frozenset(
    {"visual", "vision_tower", "vision_model", "audio_tower", "multi_modal_projector"}
)
"""Parts that mlx-lm leaves out of a model."""

_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
_HEADS = ("lm_head", "embed_out")

_PART = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)"
    r"(?:\.default)?(?:\.(?P<leaf>weight|bias))?"
)
_EXPERT = re.compile(r"(.+)\.(experts)\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
_STACKED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


@dataclass
class Peft:
    """An adapter of PEFT and what became of it.

    Attributes:
        folder: Where its two files are.
        settings: Its adapter_config.json.
        float32: Whether merged weights stay in float32 rather than in the dtype of the base.
        notes: What a person should know of the merge; filled by `merge`.
        stored_dtype: What most of the base's weights are stored in; found by `merge`.
        n_loose: Quantised arrays that had to be dequantised; counted by `merge`.
    """

    folder: Path
    settings: Mapping[str, Any]
    float32: bool
    notes: list[str] = field(default_factory=list)
    stored_dtype: str = "float32"
    n_loose: int = 0

    @property
    def base(self) -> str:
        """The model that it was trained on."""
        return str(self.settings.get("base_model_name_or_path") or "an unnamed model")

    def classes(self, config: dict[str, Any]) -> tuple[type, type]:
        """The classes that mlx-lm builds a model from, merging before it sanitizes.

        Args:
            config: What mlx-lm was told; weights that were tied and differ now are untied in it.
        """
        from mlx_lm.utils import _get_classes

        model_class, arguments = _get_classes(config)
        changes = _read(self)
        untie = _unties(self, changes, arguments.from_dict(config))
        for part in (config, config.get("text_config")) if untie else ():
            if part is not None:
                part["tie_word_embeddings"] = False

        class Merging(model_class):  # type: ignore[misc, valid-type] # found at run time
            def sanitize(self_, weights: Weights) -> Weights:  # noqa: N805 # the model's self
                self_.__class__ = model_class
                if untie:
                    _copy_head(weights)
                self.merge(changes, weights, config)
                return self_.sanitize(weights) if hasattr(self_, "sanitize") else weights

        return Merging, arguments

    def merge(self, changes: "Changes", weights: Weights, config: Mapping[str, Any]) -> None:
        """Puts the adapter into a checkpoint's arrays.

        Raises:
            ModelError: If it changes something that the checkpoint does not have.
        """
        self.stored_dtype = main_dtype(weights.values())
        restack = _unstack(changes, weights, self, config)
        places = _Places(weights)
        targets = {name: places.find(name) for name in changes.names()}
        if missing := [name for name, place in targets.items() if place is None]:
            raise ModelError(
                f"The adapter changes what this model's files do not have: {_few(missing)}. "
                f"It was made for {self.base}."
            )
        for name, place in targets.items():
            assert place is not None
            _dequantize(place, weights, self, config)
            merged = changes.apply(name, place, weights[place], self, config)
            weights[place] = merged if self.float32 else merged.astype(weights[place].dtype)
        restack()
        ranks = sorted({low.shape[0] for low, _ in changes.products.values()})
        kind = "DoRA" if changes.magnitudes else "LoRA"
        rank = "–".join(map(str, dict.fromkeys((ranks or [0])[:: max(1, len(ranks) - 1)])))
        self.notes.insert(0, f"{kind} of PEFT, rank {rank}, merged into {len(targets)} weights")
        if self.n_loose:
            self.notes.append(f"{self.n_loose} quantised weights are held unquantised")


@dataclass
class Changes:
    """What an adapter's file holds, by the parameter that it changes.

    Attributes:
        products: Parameter → A [r, in] and B [out, r].
        embeddings: The parameters among them that are embeddings, [in, out].
        magnitudes: Parameter → DoRA's magnitude of each output, [out].
        biases: Parameter → what is added to a bias, [out], before its scale, and r.
        replaced: Parameter → its new value.
    """

    products: dict[str, tuple[mx.array, mx.array]] = field(default_factory=dict)
    embeddings: set[str] = field(default_factory=set)
    magnitudes: dict[str, mx.array] = field(default_factory=dict)
    biases: dict[str, tuple[mx.array, int]] = field(default_factory=dict)
    replaced: dict[str, mx.array] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every parameter that is changed, once."""
        return list(dict.fromkeys([*self.replaced, *self.products, *self.biases]))

    def apply(
        self, name: str, place: str, weight: mx.array, adapter: Peft, config: Mapping[str, Any]
    ) -> mx.array:
        """The new value of a parameter, float32."""
        old = self.replaced.get(name, weight).astype(mx.float32)
        module = name.rpartition(".")[0]
        new = old
        with mx.stream(mx.cpu):  # a GPU may multiply float32 in TF32
            if name in self.biases:
                added, rank = self.biases[name]
                new = old + _scale(adapter.settings, module, rank) * added.astype(mx.float32)
            elif name in self.products:
                low, high = (half.astype(mx.float32) for half in self.products[name])
                added = (high @ low) * _scale(adapter.settings, module, low.shape[0])
                turned = name in self.embeddings or _turned(place, added, weight, adapter, config)
                new = old + (added.T if turned else added) if _fits(old, added, turned) else added
                if name in self.magnitudes and new.shape == old.shape:
                    axis = 0 if turned else 1
                    norm = mx.linalg.norm(new, axis=axis, keepdims=True)
                    new = new * (mx.expand_dims(self.magnitudes[name], axis) / norm)
        if new.shape != weight.shape:
            raise ModelError(
                f"The adapter changes {name} of shape {list(new.shape)}, and this model's is "
                f"{list(weight.shape)}: it was made for {adapter.base}."
            )
        return new


def open_adapter(folder: Path, *, float32: bool) -> Peft | None:
    """The adapter in a folder; None if it is one of mlx-lm's own.

    Raises:
        ModelError: If it is of PEFT, and of a kind that cannot be merged.
    """
    settings = json.loads((folder / CONFIG).read_text("utf-8"))
    if "peft_type" not in settings:
        return None
    said = f"The adapter {str(folder)!r} cannot be merged:"
    if settings["peft_type"] != "LORA":
        raise ModelError(f"{said} its peft_type is {settings['peft_type']}, and LORA is known.")
    if found := [option for option in _UNMAPPED if settings.get(option)]:
        raise ModelError(f"{said} it uses {_few(found)}.")
    begun = str(settings.get("init_lora_weights")).lower()
    if begun.startswith(_CHANGES_BASE):
        raise ModelError(
            f"{said} it was initialised with {begun}, which changes the base model; save it "
            "with path_initial_model_for_weight_conversion."
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{said} it has no {WEIGHTS}.")
    return Peft(folder=folder, settings=settings, float32=float32)


def other_base(adapter: Peft, names: tuple[str, ...]) -> bool:
    """Whether an adapter names another base model than one that goes by these names.

    Copies of a model go by its name with more behind it, such as `-4bit`.
    """
    if not adapter.settings.get("base_model_name_or_path"):
        return False
    made_for = _plain(adapter.base)
    return not any(a.startswith(b) for n in names for a, b in _both(made_for, _plain(n)) if b)


def _both(first: str, second: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (first, second), (second, first)


def _plain(name: str) -> str:
    return Path(name).name.lower().replace("_", "-")


def _read(adapter: Peft) -> Changes:
    """The adapter's arrays by what they change."""
    changes = Changes()
    arrays: Weights = mx.load(str(adapter.folder / WEIGHTS))  # type: ignore[assignment] # of a safetensors file
    halves: dict[str, dict[str, mx.array]] = {}
    left_out = 0
    for key, array in arrays.items():
        name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        name = name.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
        if _NOT_TEXT & set(name.split(".")):
            left_out += 1
        elif found := _PART.fullmatch(name):
            part = found["part"] + (".bias" if found["leaf"] == "bias" else "")
            halves.setdefault(found["module"], {})[part] = array
        else:
            changes.replaced[name] = array
    if left_out:
        adapter.notes.append(f"{left_out} arrays of parts that are not text are left out")
    for module, parts in halves.items():
        weight, kind = f"{module}.weight", "embedding_" if "embedding_A" in parts else ""
        if kind:
            changes.embeddings.add(weight)
        try:
            low, high = parts[f"{kind}A"], parts[f"{kind}B"]
        except KeyError:
            raise ModelError(f"The adapter holds one half of {module} alone.") from None
        if low.ndim != 2 or high.ndim != 2:
            raise ModelError(f"The adapter changes a convolution, {module}: it cannot be merged.")
        changes.products[weight] = low, high
        if "magnitude_vector" in parts:
            changes.magnitudes[weight] = parts["magnitude_vector"].astype(mx.float32).flatten()
        if "B.bias" in parts:
            changes.biases[f"{module}.bias"] = parts["B.bias"], low.shape[0]
    return changes


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    patterns: Mapping[str, float] = settings.get("alpha_pattern") or {}
    matching = (a for pattern, a in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    alpha = float(next(matching, settings.get("lora_alpha", 8)))
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def _turned(
    place: str, added: mx.array, weight: mx.array, adapter: Peft, config: Mapping[str, Any]
) -> bool:
    """Whether a weight is stored [in, out], as GPT-2's are; told by its shape if that can tell."""
    if added.shape[0] != added.shape[1]:
        return added.shape != weight.shape
    if config.get("model_type") == "gpt2":
        return not place.startswith("model.")  # mlx-lm's own files are turned already
    return bool(adapter.settings.get("fan_in_fan_out"))


def _fits(old: mx.array, added: mx.array, turned: bool) -> bool:
    return old.shape == (added.shape[::-1] if turned else added.shape)


class _Places:
    """Where a parameter is in a checkpoint that may name its wrappers otherwise."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.plain: dict[tuple[str, ...], list[str]] = {}
        for name in weights:
            self.plain.setdefault(_unwrapped(name), []).append(name)

    def find(self, name: str) -> str | None:
        """Its name there."""
        if name in self.weights:
            return name
        found = self.plain.get(_unwrapped(name), [])
        return found[0] if len(found) == 1 else None


def _unwrapped(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split(".") if part not in _WRAPPERS)


def _unties(adapter: Peft, changes: Changes, arguments: Any) -> bool:
    """Whether the embedding and the head are one array in the base, and are not any more."""
    text = getattr(arguments, "text_config", None)
    tied = getattr(arguments, "tie_word_embeddings", False) or (
        isinstance(text, Mapping) and text.get("tie_word_embeddings", False)
    )
    touched = {name.split(".")[-2] for name in changes.names() if name.endswith(".weight")}
    changed = touched & {*_EMBEDDINGS, *_HEADS}
    return bool(tied and changed and not adapter.settings.get("ensure_weight_tying"))


def _copy_head(weights: Weights) -> None:
    for name in list(weights):
        module, _, leaf = name.rpartition(".")
        if module.rpartition(".")[2] in _EMBEDDINGS:
            weights.setdefault(f"lm_head.{leaf}", weights[name])


def _dequantize(place: str, weights: Weights, adapter: Peft, config: Mapping[str, Any]) -> None:
    """Makes an array of mlx-lm's quantised files an ordinary one."""
    module = place.rpartition(".")[0]
    if not place.endswith(".weight") or f"{module}.scales" not in weights:
        if not mx.issubdtype(weights[place].dtype, mx.floating):
            raise ModelError(f"{place} is quantised in a form that no adapter can be merged into.")
        return
    every = config["quantization"]
    own = every.pop(module, every)
    scales, biases = (weights.pop(f"{module}.{part}", None) for part in ("scales", "biases"))
    assert scales is not None
    if biases is not None and adapter.float32:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    wide = mx.dequantize(weights[place], scales, biases, **_form(own))
    weights[place] = wide.astype(mx.float32) if adapter.float32 else wide
    adapter.n_loose += 1


def _form(quantization: Mapping[str, Any]) -> dict[str, Any]:
    known = ("group_size", "bits", "mode")
    return {name: quantization[name] for name in known if name in quantization}


def _unstack(
    changes: Changes, weights: Weights, adapter: Peft, config: Mapping[str, Any]
) -> Callable[[], None]:
    """Takes stacked experts apart whose single ones are changed; returns what stacks them again."""
    apart: dict[str, list[str]] = {}
    places = _Places(weights)
    for name in changes.names():
        found = _EXPERT.fullmatch(name)
        if not found or places.find(name):
            continue
        before, _, _, matrix = found.groups()
        stack = places.find(f"{before}.switch_mlp.{_STACKED.get(matrix, matrix)}.weight")
        if stack is None or stack in apart:
            continue
        _dequantize(stack, weights, adapter, config)
        apart[stack] = [f"{before}.experts.{i}.{matrix}.weight" for i in range(len(weights[stack]))]
        for single, array in zip(apart[stack], weights.pop(stack), strict=True):
            weights[single] = array

    def restack() -> None:
        for stack, singles in apart.items():
            weights[stack] = mx.stack([weights.pop(single) for single in singles])

    return restack


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
