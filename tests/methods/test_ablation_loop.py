"""Ablation against hooks written out by hand."""

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlux.engine import HookWrapper
from mlux.methods.ablation import ablation, means, zeros
from mlux.methods.edits import SiteName, path_of
from mlux.methods.patching import every_edit

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from tiny import TOKENS, tiny  # the tiny models of the engine's tests


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("site", ["head", "attn_out", "mlp_out"])
@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_it_equals_a_plain_loop(family: str, site: SiteName, kind: str) -> None:
    model = tiny(family)
    ids, other = TOKENS.tolist()
    edits = every_edit(model, site, len(ids), by_position=False)
    paths = [path_of(site, layer) for layer in range(3)]
    _, cache = model.run_with_cache(TOKENS, hooks=paths)
    loop = {path: cache[path][1:] for path in paths}
    source: Any = other
    if kind == "zero":
        source = zeros(edits)
        loop = {path: mx.zeros_like(cache[path][:1]) for path in paths}
    elif kind == "mean":
        source = means(model, TOKENS.tolist(), [site])
        loop = {
            path: mx.mean(cache[path][..., 1:, :], axis=(0, -2), keepdims=True) for path in paths
        }
    answer, wrong = 5, 9
    own = model.forward([ids])[0, -1]
    for found in ablation(model, ids, edits, source=source, answer=answer, wrong_answer=wrong):
        edit = found.row

        def put(inputs: Any, output: mx.array, wrapper: HookWrapper, e: Any = edit) -> mx.array:
            value = mx.broadcast_to(loop[e.path], output.shape)
            if e.head is None:
                return value
            output = output[...]
            output[:, e.head] = value[:, e.head]
            return output

        logits = model.run_with_hooks([ids], hooks=[(edit.path, put)])[0, -1]  # type: ignore[union-attr]
        log_p, log_q = (x - mx.logsumexp(x) for x in (own, logits))
        assert found.loss == pytest.approx(-log_q[answer].item(), abs=1e-3)
        assert found.logit_diff == pytest.approx((logits[answer] - logits[wrong]).item(), abs=1e-3)
        assert found.kl == pytest.approx(mx.sum(mx.exp(log_p) * (log_p - log_q)).item(), abs=1e-3)
        assert found.accuracy == (mx.argmax(logits).item() == answer)
