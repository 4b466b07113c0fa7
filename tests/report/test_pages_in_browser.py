"""The pages in a real browser: sorting, filters, rollouts, several runs; no error, no request, open at the top."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s1.cli import main
from s1.evals.run import grade_run
from s1.report.page import write_page
from s1.runs import PolicyRecord, RunConfig, open_run
from s1.types import Generation, Question, Rollout, Segment, Spent

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("matplotlib", reason="matplotlib draws the figure; install .[report]")

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<img src=x onerror=document.title='owned'>"
NUMBERS = (9, 100, 2, 30)
"""The answers of the questions, and their thinking tokens: as numbers 2, 9, 30, 100."""
PHONE = {"width": 390, "height": 844}


def generation(question: Question, policy: str, tokens: int, right: bool) -> Generation:
    def written(text: str) -> tuple[Segment, ...]:
        return Segment((), "think " + text, "thinking", "model"), Segment((), text, "answer", "model")

    answer = str(question.answer) if right else "0"
    made = Generation(question.id, 0, policy, written(answer), tokens, 1, 0, 0, False, "stop")
    if policy != "vote":
        return made
    rolled = (
        Rollout(written(answer), tokens, 1, "stop", True),
        Rollout(written(f"77 {HOSTILE}"), 5, 1, "stop", False),
        Rollout((), 0, 0, None, False, "the engine broke off"),
    )
    return dataclasses.replace(made, rollouts=rolled, spent=Spent(tokens + 5, 2, 0, 3, 1))


def make(folder: Path, offset: int = 0, numbers: tuple[int, ...] = NUMBERS) -> Path:
    kinds = {"cut": "budget", "natural": "natural", "vote": "majority"}
    policies = tuple(
        PolicyRecord(key, f"{key} {HOSTILE}" * (key == "cut") or key, kind) for key, kind in kinds.items()
    )
    questions = [Question(f"q{n}", f"What is {n}? {HOSTILE}", str(n)) for n in numbers]
    with open_run(folder, RunConfig("sums", "exact", "tiny", policies), questions) as run:
        for question, n in zip(questions, numbers, strict=True):
            for place, key in enumerate(kinds):
                run.append(generation(question, key, n + 10 * place + offset, n % 2 == 0 or place > 0))
        run.finish()
    grade_run(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_page(make(folder / "one"))
    write_page(make(folder / "two", 20))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Open a file; at the end there was no error and no request but for files."""
    problems: list[str] = []
    opened: list[Any] = []

    def visit(path: Path, fragment: str = "", **options: Any) -> Any:
        page = browser.new_page(**options)
        opened.append(page)
        page.on("console", lambda m: problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith("file:") else problems.append(r.url))
        page.goto(path.as_uri() + fragment)
        return page

    yield visit
    titles = [page.title() for page in opened]
    for page in opened:
        page.close()
    assert problems == [] and "owned" not in titles


def column(page: Any, name: str) -> list[str]:
    found: list[str] = page.locator(f"#samples td.{name}").all_inner_texts()
    return found


def test_the_table_sorts_by_click_and_by_key(runs: Path, visit: Any) -> None:
    page = visit(runs / "one" / "index.html")
    head = page.locator("#samples th.target")
    assert column(page, "target") == ["9", "100", "2", "30"] and head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert (
        column(page, "target") == ["2", "9", "30", "100"] and head.get_attribute("aria-sort") == "ascending"
    )
    head.get_by_role("button").press("Enter")
    assert (
        column(page, "target") == ["100", "30", "9", "2"] and head.get_attribute("aria-sort") == "descending"
    )
    again = visit(runs / "one" / "index.html", page.evaluate("location.hash"))
    again.locator("#samples td.target").first.wait_for()
    assert column(again, "target") == ["100", "30", "9", "2"], "the address keeps the order"
    page.locator("#samples th.thinking-tokens").get_by_role("button").press("Space")
    assert (
        column(page, "thinking-tokens") == ["12", "19", "40", "110"]
        and head.get_attribute("aria-sort") == "none"
    )


def test_the_table_lists_every_policy_and_the_arrow_keys_open_the_next_answer(runs: Path, visit: Any) -> None:
    page = visit(runs / "one" / "index.html")
    page.get_by_label("Policy").select_option("all policies")
    assert len(column(page, "policy")) == 12 and "12 of 12 answers" in page.inner_text("#count")
    page.get_by_label("Show").select_option("wrong")
    assert column(page, "answer") == ["0"] and column(page, "target") == ["9"]
    page.get_by_label("Show").select_option("all")
    page.get_by_label("Policy").select_option("natural")
    page.locator("#samples tbody tr").nth(0).click()
    page.locator("#list").press("ArrowDown")
    page.locator("#trace h2", has_text="What is 100?").wait_for()
    assert page.locator("#samples tr[aria-current]").inner_text().split("\t")[2].strip() == "100"


def test_each_rollout_of_a_vote_can_be_opened(runs: Path, visit: Any) -> None:
    page = visit(runs / "one" / "index.html", "#policy=vote&question=q30")
    rollouts = page.locator("details.rollout")
    rollouts.first.wait_for()
    assert rollouts.count() == 3
    assert "30" in rollouts.nth(0).inner_text() and "chosen" in rollouts.nth(0).inner_text()
    assert "failed" in rollouts.nth(2).inner_text()
    rollouts.nth(1).locator("summary").click()
    opened = rollouts.nth(1).inner_text()
    assert f"think 77 {HOSTILE}" in opened and "5 thinking tokens" in opened and "chosen" not in opened
    assert page.locator("#trace img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, {"width": 1366, "height": 768}], ids=["phone", "laptop"])
def test_the_pages_open_at_the_top_and_fit_the_window(
    runs: Path, visit: Any, size: dict[str, int], scheme: str
) -> None:
    assert main(["report", str(runs / "one"), str(runs / "two")]) == 0
    for path in (runs / "one" / "index.html", runs / "runs.html"):
        page = visit(
            path, "#policy=vote&question=q30" * (path.parent != runs), viewport=size, color_scheme=scheme
        )
        page.locator("table tbody tr").first.wait_for()
        assert page.evaluate("scrollY") == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("h1").is_visible()


def test_the_page_says_which_command_made_the_run(runs: Path, visit: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/s1", "sweep", "--benchmark", "a b"])
    write_page(make(runs / "named"))
    page = visit(runs / "named" / "index.html")
    assert page.locator("pre").inner_text() == "s1 sweep --benchmark 'a b'"
    made = page.locator(".made").inner_text()
    assert "12 answers" in made and "UTC" in made and "tiny" in made and "4 of sums" in made


def test_several_runs_are_listed_and_their_curves_hide_and_open(runs: Path, visit: Any) -> None:
    out = runs / "pages" / "both.html"
    assert main(["report", str(runs / "one"), str(runs / "two"), "--out", str(out)]) == 0
    page = visit(out)
    names = page.locator("tbody tr td:first-child")
    assert names.all_inner_texts() == ["● one", "● two"] and page.locator("a.dot").count() == 6
    head = page.locator("th", has_text="thinking tokens")
    head.get_by_role("button").click()
    head.get_by_role("button").click()
    assert names.all_inner_texts() == ["● two", "● one"] and head.get_attribute("aria-sort") == "descending"
    page.get_by_label("show one").uncheck()
    assert page.locator("a.dot:visible").count() == 3
    page.locator("a.dot:visible").nth(2).click()
    page.locator("details.rollout").first.wait_for()
    assert "/two/index.html#policy=vote" in page.url


def test_runs_on_other_questions_are_called_so(runs: Path, visit: Any, capsys: Any) -> None:
    make(runs / "other", numbers=(1, 2, 3))
    assert main(["report", str(runs / "one"), str(runs / "other"), "--out", str(runs / "o.html")]) == 0
    page = visit(runs / "o.html")
    assert "differ in their questions" in page.get_by_role("alert").inner_text()
    assert main(["report", str(runs / "one"), str(runs / "one"), "--out", str(runs / "o.html")]) == 2
    assert main(["report", str(runs / "one"), "--out", str(runs / "o.html")]) == 2
    assert main(["report", str(runs / "one"), str(runs / "two"), "--json"]) == 2
    assert "--json is for one run" in capsys.readouterr().err
