"""Every architecture of mlx-lm, proved on a tiny random model of it."""

from functools import cache
from pathlib import Path

import pytest
from architectures import CONFIGS, NOT_RUNNABLE, build, model_files

from mlux.engine import sites
from mlux.engine.certificate import Certificate
from mlux.engine.checkup import KINDS
from mlux.engine.last_token import can_share
from mlux.errors import HookError
from tools.architectures_doc import FLAWS, document

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"


@cache
def certificate(name: str) -> Certificate:
    return build(name).check()


def test_every_model_file_of_mlx_lm_is_covered_or_says_why_not() -> None:
    assert sorted(model_files()) == sorted([*CONFIGS, *NOT_RUNNABLE])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_certificate(name: str) -> None:
    found = certificate(name)
    flaws = {row.site for row in found.failed(())}
    assert flaws == set(FLAWS.get(name, {})), found
    assert all(row.reason for row in found.rows if row.verdict == "absent"), found
    assert found.forward_passes <= 30


@pytest.mark.parametrize("name", CONFIGS)
def test_every_canonical_name_resolves_or_says_why_not(name: str) -> None:
    model = build(name)
    paths = set(model.available_hooks())
    for layer in range(len(model.layers)):
        names = {
            "resid_pre": sites.resid_pre(layer),
            "resid_post": sites.resid_post(layer),
            "attn_out": sites.attn_out(layer),
            "mlp_out": sites.mlp_out(layer),
            "head": sites.head(layer, 0),
            **{kind: sites.tap(layer, kind) for kind in sites.TAPS if kind != "head"},
        }
        for kind, path in names.items():
            reason = model.anatomy.blocks[layer].lacks.get(kind)
            assert (path in paths) == (reason is None)
            if reason is None:
                model.layout.locate(path)
                continue
            with pytest.raises(HookError, match="has no"):
                model.layout.locate(path)


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    certificates = {name: certificate(name) for name in CONFIGS}
    expected = document(certificates, NOT_RUNNABLE)
    assert DOCUMENT.read_text() == expected, "run: python -m tools.architectures_doc"


def test_every_kind_of_site_is_certified_somewhere() -> None:
    row = certificate("llama").rows
    assert {r.site for r in row if r.verdict == "exact"} >= set(KINDS)


# Latent attention works on a single token in another basis, where z is something else; and two
# files' masks are wrong with a cache. There the whole prompt runs in every row.
NOT_SHARED = {
    *("bailing_hybrid", "bailing_moe_v3", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"),
    *("glm_moe_dsa", "kimi_k25", "kimi_k3", "kimi_linear", "kimi_vl", "longcat_flash"),
    *("longcat_flash_ngram", "mistral4", "phi3small", "plamo3"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_read_once_serves_many_rows(name: str) -> None:
    assert can_share(build(name)) == (name not in NOT_SHARED)
