"""Reading and editing hold at every precision: quantised weights, float16 and bfloat16."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model, quantize_model, save_model

from mlux.engine import HookedModel, loading, sites
from mlux.errors import HookError

AFFINE = [f"affine-{bits}-64" for bits in (2, 3, 4, 5, 6, 8)]
QUANTIZED = [*AFFINE, "affine-4-32", "mxfp4-4-32", "nvfp4-4-16", "mxfp8-8-32", "mixed-4-32"]
HALF = ["float16", "bfloat16"]
HALF_AND_QUANTIZED = ["affine-4-64 float16", "mxfp4-4-32 bfloat16", "mixed-4-32 bfloat16"]
ROUNDING = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
TOKENS = mx.array([[3, 5, 7, 11, 13], [2, 4, 6, 8, 10]])
LAST, MIDDLE = 5, 3


Load = Callable[[str], HookedModel]


def save_quantized(name: str, folder: Path) -> None:
    """The built-in model in mlx-lm's own format of quantised models.

    `mixed` keeps the output projections at 8 bits, as mlx-lm's mixed recipes do.
    """
    scheme, bits, group_size = name.split("-")
    mode = "affine" if scheme == "mixed" else scheme
    source = loading.find("demo").folder
    copytree(source, folder)
    model, config = load_model(source)

    def recipe(path: str, module: Any) -> bool | dict[str, Any]:
        if scheme == "mixed" and path.endswith("o_proj"):
            return {"bits": 8, "group_size": int(group_size), "mode": mode}
        return hasattr(module, "to_quantized")

    model, config = quantize_model(
        model, config, int(group_size), int(bits), mode=mode, quant_predicate=recipe
    )
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """load(row) is the model of a row: a dtype, a quantisation, or a quantisation and a dtype."""
    home = tmp_path_factory.mktemp("quantized")

    @cache
    def load(name: str) -> HookedModel:
        scheme, _, dtype = name.partition(" ")
        if scheme in ROUNDING:
            return HookedModel.from_pretrained("demo", dtype=scheme)
        if not (home / scheme).exists():
            save_quantized(scheme, home / scheme)
        return HookedModel.from_pretrained(home / scheme, dtype=dtype or "float32")

    return load


@pytest.fixture(params=[*QUANTIZED, *HALF, *HALF_AND_QUANTIZED])
def model(request: pytest.FixtureRequest, load: Load) -> HookedModel:
    return load(request.param)


def rounding(model: HookedModel) -> float:
    return ROUNDING[model.config["dtype"]]


def canonical(path: str) -> bool:
    return sites.parse(path) is not None


def close(a: mx.array, b: mx.array, tolerance: float) -> bool:
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return float(mx.max(mx.abs(a - b))) <= tolerance * float(mx.max(mx.abs(b)))


def test_looking_changes_not_one_bit(model: HookedModel) -> None:
    bare = model.model(TOKENS)
    logits, _ = model.run_with_cache(TOKENS, hooks=canonical)
    assert mx.array_equal(logits, bare)
    assert mx.array_equal(model.model(TOKENS), bare)


def test_activations_keep_the_dtype_of_the_computation(model: HookedModel) -> None:
    _, cache = model.run_with_cache(TOKENS, hooks=canonical)
    dtypes = {path: str(array.dtype).removeprefix("mlx.core.") for path, array in cache.items()}
    patterns = {path for path in dtypes if path.endswith(".pattern")}
    assert {dtypes.pop(path) for path in patterns} == {"float32"}
    quantization = model.config["quantization"]
    if quantization and quantization["mode"] != "affine":
        # MLX looks these embeddings up in bfloat16, which holds their values exactly.
        assert {dtypes.pop("model.embed_tokens"), dtypes.pop(sites.resid_pre(0))} == {"bfloat16"}
    assert set(dtypes.values()) == {model.config["dtype"]}
    assert not any(mx.any(mx.isnan(array)) for array in cache.values())


def test_the_anatomy_does_not_depend_on_the_precision(model: HookedModel, load: Load) -> None:
    assert model.anatomy == load("float32").anatomy


def test_the_residual_stream_is_the_sum_of_what_is_added(model: HookedModel) -> None:
    _, cache = model.run_with_cache(TOKENS, hooks=canonical)
    added = cache[sites.attn_out(MIDDLE)] + cache[sites.mlp_out(MIDDLE)]
    total = cache[sites.resid_pre(MIDDLE)] + added
    assert close(total, cache[sites.resid_post(MIDDLE)], rounding(model))


def test_the_lens_at_the_last_layer_is_the_model_itself(model: HookedModel) -> None:
    logits, cache = model.run_with_cache(TOKENS, hooks=[sites.resid_post(LAST)])
    assert mx.array_equal(model.unembed(cache[sites.resid_post(LAST)]), logits)


def test_z_is_the_pattern_times_v(model: HookedModel) -> None:
    kinds: tuple[sites.Kind, ...] = ("pattern", "v", "z")
    _, cache = model.run_with_cache(TOKENS, hooks=[sites.tap(MIDDLE, kind) for kind in kinds])
    pattern, v, z = (cache[sites.tap(MIDDLE, kind)] for kind in kinds)
    assert close(mx.sum(pattern, axis=-1), mx.ones(pattern.shape[:3]), 1e-5)
    assert close(pattern @ v.astype(mx.float32), z, rounding(model))


def test_a_run_patched_into_itself_is_unchanged(model: HookedModel) -> None:
    paths = [
        sites.resid_pre(MIDDLE),
        sites.resid_post(MIDDLE),
        sites.attn_out(MIDDLE),
        sites.mlp_out(MIDDLE),
        sites.tap(MIDDLE, "z"),
        sites.tap(MIDDLE, "pattern"),
        sites.head(MIDDLE, 1),
    ]
    logits, cache = model.run_with_cache(TOKENS, hooks=paths)
    for path in paths:
        patched = model.run_with_hooks(TOKENS, hooks=[(path, lambda i, o, w, p=path: cache[p])])
        assert mx.array_equal(patched, logits), path


def test_an_edit_is_what_it_says_and_shows(model: HookedModel) -> None:
    """Writing another prompt's residual gives that prompt's logits from there on."""
    path = sites.resid_post(MIDDLE)
    logits, cache = model.run_with_cache(TOKENS, hooks=[path])
    other = mx.roll(cache[path], 1, axis=0)
    swapped = model.run_with_hooks(TOKENS, hooks=[(path, lambda i, o, w: other)])
    assert mx.array_equal(swapped, mx.roll(logits, 1, axis=0))
    assert not close(swapped, logits, 0.05)


@pytest.mark.parametrize("name", [*HALF, *HALF_AND_QUANTIZED])
def test_a_float32_delta_is_refused_in_half_precision(name: str, load: Load) -> None:
    """It would lift the rest of the model to float32, even where it is zero."""
    path = sites.resid_post(MIDDLE)
    with pytest.raises(HookError, match=r"returned mlx.core.float32; expected .*float16"):
        load(name).run_with_hooks(TOKENS, hooks=[(path, lambda i, o, w: o + mx.zeros(128))])


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantisation_is_part_of_the_identity(name: str, load: Load) -> None:
    mode, bits, group_size = name.split("-")
    identity = load(name).identity
    found = (identity.quant_mode, identity.quant_bits, identity.quant_group_size)
    assert found == ("affine" if mode == "mixed" else mode, int(bits), int(group_size))
    assert load(name).config["n_parameters"] == load("float32").config["n_parameters"]


def test_no_two_precisions_are_the_same_model(load: Load) -> None:
    names = ["float32", *QUANTIZED, *HALF, *HALF_AND_QUANTIZED]
    assert len({load(name).identity.content_hash for name in names}) == len(names)


def test_fewer_bits_are_further_from_the_model(load: Load) -> None:
    """The quantised models are quantised: their logits move away as their bits go."""
    exact = load("float32").forward(TOKENS)
    errors = [
        float(mx.mean(mx.abs(load(f"affine-{bits}-64").forward(TOKENS) - exact)))
        for bits in (8, 6, 5, 4, 3, 2)
    ]
    assert errors == sorted(errors)
    assert 0 < errors[0] < 0.1 * errors[-1]
