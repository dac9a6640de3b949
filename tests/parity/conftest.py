"""Prints what was measured, under the tests' own summary."""

import pytest

MEASURED: dict[str, str] = {}
"""Family → its line of the table."""


ROPE: dict[str, str] = {}
"""Family and type of rotary embedding → the largest difference of its logits."""


@pytest.fixture
def rope_table() -> dict[str, str]:
    return ROPE


@pytest.fixture
def table() -> dict[str, str]:
    return MEASURED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MEASURED:
        terminalreporter.section("largest difference to transformers / its largest entry")
        header = "family", *("logits", "resid", "pattern", "z")
        terminalreporter.write_line("{:33}{:>9}{:>9}{:>9}{:>9}  mlx-lm's own".format(*header))
        for _, line in sorted(MEASURED.items()):
            terminalreporter.write_line(line)
    if ROPE:
        terminalreporter.section("rotary embeddings: largest difference of logits, all forms")
        for name, value in sorted(ROPE.items()):
            terminalreporter.write_line(f"{name:33}{value:>9}")
