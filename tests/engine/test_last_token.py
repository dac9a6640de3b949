"""Running the last token alone gives what running the whole prompt gives, hooked or not."""

from typing import Any

import mlx.core as mx
import pytest
from tiny import CONFIGS, TOKENS, tiny

from mlux.engine import HookedModel, sites
from mlux.engine.last_token import LastToken, can_share


def halve(inputs: Any, output: mx.array, wrapper: Any) -> mx.array:
    """Edits the last token alone, whatever else is there."""
    return mx.concatenate([output[..., :-1, :], output[..., -1:, :] * 0.5], axis=-2)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_last_token_alone_is_the_last_of_all(name: str) -> None:
    model = tiny(name)
    ids = TOKENS[0]
    assert can_share(model) == (name != "deepseek_v3")
    runs = LastToken(model, ids, rows=3)
    for hooks in ([], [(sites.tap(1, "z"), halve)], [(sites.resid_post(0), halve)]):
        whole = model.run_with_hooks(mx.array([ids]), hooks=hooks)[0, -1]
        rows = runs.run(hooks)  # again and again from the same cache
        assert rows.shape == (3, model.config["vocab_size"])
        assert mx.allclose(rows[0], whole, atol=1e-3)
        assert mx.array_equal(rows[0], rows[2]) or mx.allclose(rows[0], rows[2], atol=1e-4)


def test_a_prompt_of_one_token_and_a_model_that_cannot_share_run_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = HookedModel.from_pretrained("demo")
    assert LastToken(model, [1], rows=2).run().shape == (2, 1466)
    shared = LastToken(model, TOKENS[0], rows=2).run()
    monkeypatch.setattr("mlux.engine.last_token.can_share", lambda model: False)
    seen = []

    def look(inputs: Any, output: mx.array, wrapper: Any) -> None:
        seen.append(output.shape[1])

    whole = LastToken(model, TOKENS[0], rows=2).run([(sites.resid_post(2), look)])
    assert seen == [len(TOKENS[0])]
    assert mx.allclose(shared, whole, atol=1e-3)
