"""Prints what was measured, under the tests' own summary."""

import pytest

MEASURED: dict[str, str] = {}
"""Family → its line of the table."""


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
