"""Reports say what the runs found, open anywhere, and give commands and SQL that repeat it."""

import doctest
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from example_copy import copy_of_example
from PIL import Image

import mlux.report
from mlux import charts, compare, report
from mlux.charts.labels import printable
from mlux.cli.root import cli as root
from mlux.errors import ParameterError, UnknownNameError
from mlux.store import Store, query
from mlux.store.claims import add_claim
from tests.report import hostile
from tests.report.browser import Browser, Visit

LENSES = ["latest:logit_lens~1", "latest:logit_lens"]
WIDTHS = (1280, 390)
MEASURE = {
    "width": "document.documentElement.scrollWidth",
    "drawn": "document.querySelectorAll('.chart svg').length",
    "asked": "document.querySelectorAll('[data-chart]').length",
    "blank": "Array.from(document.querySelectorAll('.chart svg'))"
    ".filter(svg => svg.querySelectorAll('path').length < 5).length",
    "hacked": "document.documentElement.dataset.hacked || 'no'",
    "scripts": "document.querySelectorAll('script:not([type])').length",
    "images": "document.querySelectorAll('img').length",
    "text": "document.body.innerText",
    "title": "document.title",
    "smallest": "Math.min(...Array.from(document.querySelectorAll('p, td, th, pre'))"
    ".map(e => parseFloat(getComputedStyle(e).fontSize)))",
}  # fmt: skip


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example database with a claim in it."""
    path = str(copy_of_example(tmp_path_factory.mktemp("example") / "example.db"))
    with Store.open(path, write=True) as store:
        runs = ["latest:induction_heads"]
        add_claim(store, "Layer 2 has induction heads", runs=runs, status="supported", note="all 2")
    return path


@pytest.fixture(scope="module")
def page(example: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [*LENSES, "latest:induction_heads", "latest:activation_patching"]
    target = tmp_path_factory.mktemp("report") / "report.html"
    assert report.write(
        runs, target, question="Do 4 bits hurt?", across_quantization=True, db=example
    ) == [target]
    return target


def _quiet(visit: Visit) -> None:
    """What holds of every page: nothing complains, nothing is fetched, nothing is blank."""
    assert visit.complaints == []
    assert visit.requests == []
    assert visit.facts["drawn"] == visit.facts["asked"] > 0
    assert visit.facts["blank"] == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_opens_offline_without_a_complaint_and_fits_the_window(
    browser: Browser, page: Path, width: int
) -> None:
    visit = browser.visit(page, width=width, measure=MEASURE)
    _quiet(visit)
    assert visit.facts["drawn"] == 5
    assert visit.facts["width"] <= width
    assert visit.facts["smallest"] >= 13
    assert visit.facts["title"] == "Do 4 bits hurt?"
    image = Image.open(io.BytesIO(visit.screenshot))
    assert image.width == width
    assert image.height > 3000
    colors = image.convert("RGB").getcolors(image.width * image.height) or []
    assert len(colors) > 1000  # the charts' colours among them


def test_a_report_says_what_is_asked_found_claimed_and_where_it_comes_from(
    browser: Browser, page: Path
) -> None:
    text = browser.visit(page, width=1280, measure=MEASURE).facts["text"]
    assert "logit_lens, induction_heads, activation_patching on demo, demo-4bit" in text
    assert re.search(r"answer_probability of demo-4bit minus demo: significant \(q < 0.05\)", text)
    assert "demo is not quantised, demo-4bit is quantised to 4 bits" in text
    assert "Layer 2 has induction heads" in text
    assert "Olsson et al. (2022)" in text
    for fact in ("weights", "chat template", "experiment's code", "version mlx", "param top_k"):
        assert re.search(rf"^{fact}\s", text, re.M), fact
    assert "mlux run logit_lens --model demo-4bit --prompts facts -p positions=last" in text


def test_what_a_chart_shows_is_what_its_sql_gives(example: str) -> None:
    content = report.gather([*LENSES, "latest:activation_patching"], db=example)
    figures = {item.caption: item for section in content.sections for item in section.figures}
    with Store.open(example) as store:
        answers = {caption: query(store, item.sql)[1] for caption, item in figures.items()}
    profile = figures["answer_probability by layer"].chart.to_dict()["data"]["values"]
    of_sql = {round(row[3], 9) for row in answers["answer_probability by layer"]}
    assert of_sql == {round(row["value"], 9) for row in profile}
    heads = figures["patching_effect by head"].chart.to_dict()["data"]["values"]
    drawn = {(row["layer"], row["head"]): round(row["value"], 9) for row in heads}
    of_sql = {(row[2], row[3]): round(row[4], 9) for row in answers["patching_effect by head"]}
    assert of_sql == drawn
    tokens = figures["patching_effect by layer and token"].chart.to_dict()["data"]["values"]
    drawn = {(row["layer"], row["position"]): row["value"] for row in tokens}
    rows = answers["patching_effect by layer and token"]
    assert {(row[2], row[3]): row[4] for row in rows} == pytest.approx(drawn)
    lens = figures["Top token by layer"].chart.to_dict()["data"]["values"]
    assert len(answers["Top token by layer"]) == len(lens)


def test_every_command_of_a_report_can_be_typed(example: str) -> None:
    content = report.gather(
        LENSES, question="It's $HOME; `x`?", across_quantization=True, db=example
    )
    typed = [shlex.split(line, comments=True) for line in content.commands]
    assert [words[1] for words in typed if words] == [
        *("MLUX_DB=example.db", "run", "run", "compare", "plot", "plot", "report"),
    ]
    assert typed[-1][-4] == "It's $HOME; `x`?"
    for words in [words for words in typed if words and words[0] == "mlux"]:
        with root.make_context("mlux", words[1:]) as context:
            command = root.get_command(context, words[1])
            assert command is not None
            command.make_context(words[1], words[2:], parent=context)  # fails on what is unknown


def test_a_comparison_is_that_of_compare_and_marks_what_is_significant(example: str) -> None:
    (section,) = report.gather(LENSES, across_quantization=True, db=example).sections
    (comparison,) = section.comparisons
    table = compare.diff(*LENSES, metric="answer_probability", across_quantization=True, db=example)
    assert comparison.table is not None
    assert comparison.table["q"].tolist() == table["q"].tolist()
    significant = table[table["q"] < 0.05]
    assert f"at {len(significant)} of {len(table)} places by layer" in comparison.finding


def test_models_of_different_precision_are_compared_only_when_asked_to(example: str) -> None:
    (section,) = report.gather(LENSES, db=example).sections
    assert section.comparisons[0].table is None
    assert "--across-quantization" in section.comparisons[0].finding
    assert not any("compare" in line for line in report.gather(LENSES, db=example).commands)
    asked = report.gather(LENSES, across_quantization=True, db=example)
    assert "--across-quantization" in asked.commands[-1]


def test_runs_that_cannot_be_paired_say_why_instead(example: str, tmp_path: Path) -> None:
    from mlux import run_experiment

    db = str(shutil.copy(example, tmp_path / "more.db"))
    other = run_experiment("logit_lens", model="demo", prompts="two_hop:4", db=db)
    content = report.gather(["latest:logit_lens~2", other], db=db)
    (comparison,) = content.sections[0].comparisons
    assert comparison.table is None
    assert "nothing can be paired" in comparison.finding
    assert report.write([other], tmp_path / "one.html", db=db)


def test_markdown_has_its_pngs_beside_it(example: str, tmp_path: Path) -> None:
    target = tmp_path / "the report.md"
    files = report.write(LENSES, target, question="a | b *c* <d>", db=example)
    assert [file.name for file in files] == [
        "the report.md",
        "the report-1.png",
        "the report-2.png",
    ]
    text = target.read_text("utf-8")
    assert text.startswith("# a \\| b \\*c\\* &lt;d&gt;\n")
    for file in files[1:]:
        assert f"](<{file.name}>)" in text
        with Image.open(file) as image:
            assert image.width > 400
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)
    assert text.count("```") % 2 == 0


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    path = tmp_path_factory.mktemp("evil") / "evil.db"
    with Store.open(path, write=True) as store:
        return str(path), hostile.fill(store)


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_text_neither_acts_nor_breaks_a_report(
    browser: Browser, evil: tuple[str, list[str]], tmp_path: Path, width: int
) -> None:
    db, runs = evil
    target = tmp_path / "evil.html"
    report.write(runs, target, question=hostile.EVERYTHING, db=db)
    visit = browser.visit(target, width=width, measure=MEASURE)
    _quiet(visit)
    assert visit.facts["hacked"] == "no"
    assert visit.facts["scripts"] == 2  # its own two
    assert visit.facts["images"] == 0
    assert visit.facts["width"] <= width
    assert target.stat().st_size < 3_000_000  # 100 kB texts are cut
    text = visit.facts["text"]
    assert hostile.SCRIPT in text  # shown as what it is
    assert "{{ 7 * 7 }}" in text
    assert "\u202e" not in text
    assert "\\u202e" in text
    assert "👩‍🔬" in text
    source = target.read_text("utf-8")
    assert not re.search(r"<script>[^<]*hacked", source)


def test_hostile_text_neither_acts_nor_breaks_a_chart_page(
    browser: Browser, evil: tuple[str, list[str]], tmp_path: Path
) -> None:
    db, runs = evil
    for name in ("generations", "patching_heatmap", "lens_grid", "dose_response"):
        target = tmp_path / f"{name}.html"
        drawn = charts.chart_for(runs, chart=name, db=db) if name != "dose_response" else (
            charts.dose_response(compare.layer_results(runs, db=db), dose="alpha"))  # fmt: skip
        charts.save(drawn, target)
        visit = browser.visit(target, width=1280, measure=MEASURE)
        _quiet(visit)
        assert visit.facts["hacked"] == "no"
        assert charts.to_png(drawn).startswith(b"\x89PNG")


def test_a_page_that_is_tampered_with_runs_nothing(browser: Browser, page: Path) -> None:
    """The proof that the tests above can fail, and that the page's policy holds."""
    tampered = page.with_name("tampered.html")
    script = f"<script>{hostile.MARKER}</script><img src='http://example.org/x.png'>"
    tampered.write_text(page.read_text("utf-8").replace("<main>", f"<main>{script}"), "utf-8")
    visit = browser.visit(tampered, width=1280, measure=MEASURE)
    assert visit.facts["hacked"] == "no"
    assert sum("Content Security Policy" in text for text in visit.complaints) == 2
    opened = page.with_name("opened.html")
    without = re.sub(r"<meta http-equiv.*?>", "", tampered.read_text("utf-8"))
    opened.write_text(without, "utf-8")
    assert browser.visit(opened, width=1280, measure=MEASURE).facts["hacked"] == "yes"


def test_hostile_text_stays_text_in_markdown(evil: tuple[str, list[str]], tmp_path: Path) -> None:
    db, runs = evil
    report.write(runs, tmp_path / "evil.md", question=hostile.EVERYTHING, db=db)
    text = (tmp_path / "evil.md").read_text("utf-8")
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)
    assert "<script" not in outside
    assert "<img" not in outside
    assert "[link](" not in outside
    assert printable("\x1b") in outside
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_what_cannot_be_a_report_is_refused(example: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"ending must be one of \.html, \.md"):
        report.write("latest", tmp_path / "report.pdf", db=example)
    with pytest.raises(UnknownNameError, match="No run named 'zzz'"):
        report.write("zzz", tmp_path / "report.html", db=example)
    with pytest.raises(UnknownNameError, match="No metric in these runs named 'answer_prob'"):
        report.write(LENSES, tmp_path / "report.html", metric="answer_prob", db=example)
    assert not list(tmp_path.iterdir())


def test_the_example_of_the_docstring_runs(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(example, tmp_path / "mlux.db.example")
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(mlux.report).failed == 0


def test_a_charts_json_says_which_runs_it_shows(example: str, tmp_path: Path) -> None:
    charts.save(charts.chart_for(LENSES, db=example), tmp_path / "lens.json")
    facts = json.loads((tmp_path / "lens.json").read_text())["usermeta"]["mlux"]
    assert (facts["chart"], facts["metric"]) == ("layer_profile", "answer_probability")
    assert len(facts["runs"]) == 2
