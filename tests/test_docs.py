"""The pages lead where they say, and the map of the modules is the tree."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def _anchors(page: Path) -> set[str]:
    """What headings can be linked by: GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_picture_of_a_page_is_there(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            lost.append(link)
    assert lost == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\((?!https?:)([^)\s#]+)", page.read_text("utf-8"))
        todo += [(page.parent / link).resolve() for link in links]
    assert {page.resolve() for page in PAGES} - reached == set()


def test_the_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    block = re.search(r"^```\n(experiments/.*?)^```", text, re.M | re.S)
    assert block
    places = re.findall(r"^(.*?) {2,}", block[1], re.M)
    named = {
        name.rstrip("/")
        for place in places
        if place.startswith("mlux/")
        for name in place.removeprefix("mlux/").split(", ")
    }
    modules = {path.name for path in (ROOT / "mlux").glob("*.py")} - {"__init__.py", "__main__.py"}
    packages = {path.parent.name for path in (ROOT / "mlux").glob("*/__init__.py")}
    assert named == modules | packages
