"""No test asks for the time: what a machine does slowly under other work is no failure.

A test waits for an event or a line, and kills at a step of the work (`moments.py`). What hangs is
stopped by the timeout of pytest alone; what is about durations is a benchmark.
"""

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def looks_at_the_clock(node: ast.AST) -> bool:
    """Whether it imports `time`, or gives up what it calls after some seconds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [getattr(node, "module", None), *(name.name for name in node.names)]
        return "time" in names
    return isinstance(node, ast.Call) and any(one.arg == "timeout" for one in node.keywords)


def test_no_test_looks_at_the_clock() -> None:
    found = [
        f"{file.relative_to(TESTS)}:{node.lineno}"
        for file in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if looks_at_the_clock(node)
    ]
    assert found == []
