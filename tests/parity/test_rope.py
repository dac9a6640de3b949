"""Rotary embeddings: families × types × forms of config.json, within and beyond the context."""

import pytest
from rope_forms import FORMS, LENGTHS, WRAPPERS, cases, differences

BOUND = 2e-4
"""Of the logits, whose size is about 10."""


@pytest.mark.parametrize(("model_type", "kind"), list(cases()))
def test_rotary_settings_arrive_in_every_form(
    model_type: str, kind: str, rope_table: dict[str, str]
) -> None:
    found = differences(model_type, kind)
    forms = len(FORMS) * (2 if model_type in WRAPPERS else 1)
    assert len(found) == forms * len(LENGTHS)
    rope_table[f"{model_type}, {kind}"] = f"{max(found.values()):.1e}"
    assert {case: value for case, value in found.items() if not value <= BOUND} == {}
