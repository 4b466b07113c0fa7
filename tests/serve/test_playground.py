"""The page in a real browser: every control, formulas, the keyboard, a phone, the dark, and a screen reader's names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from serving import PacedModel, until

from s1.policy import BudgetPolicy
from s1.types import Continuation

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
THINKING = "We add $\\frac{3}{4}$ and\n$$\\sqrt{x^2} \\le \\sum_{i=1}^n i$$\n so <b>it</b> is done."
PIECES = len(THINKING) // 3
ANSWER = "\\boxed{\\frac{19}{12}}"


class Writer(PacedModel):
    """Thinks THINKING, again after each wait, and answers ANSWER."""

    def next(self, ids: Sequence[int], request: Continuation, masked: frozenset[int] = frozenset()) -> int:
        text = self.decode(ids).split("<think>\n", 1)[1]
        thinking, closed, answer = text.partition("</think>\n\n")
        done = answer.removeprefix("Final Answer:") if closed else thinking.rpartition("Wait")[2]
        whole = self.encode(ANSWER + "<|end|>" if closed else THINKING + "</think>")
        return whole[min(len(done.encode()), len(whole) - 1)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def open_page(browser, serve) -> Iterator[Any]:
    """Open the page of a server; at the end there may have been no error and no request to another place."""
    problems: list[str] = []
    contexts = []

    def opened(*, key: str = "", pace: float = 0.02, **options: Any) -> tuple[Any, Any]:
        model = Writer(pace=pace, context=1_200)
        examples = ("What is $\\frac{1}{2}$ of 4?", "2+2?")
        served = serve(model, policy=BudgetPolicy(max_answer=60), examples=examples, key=key)
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda r: None if r.url.startswith((served.url, "data:")) else problems.append(r.url)
        )
        page.goto(served.url)
        return page, served

    yield opened
    for context in contexts:
        context.close()
    assert [p for p in problems if "401" not in p] == []


def ended(panel: Any, text: str) -> None:
    panel.locator(".ended", has_text=text).wait_for(timeout=60_000)


def set_budget(panel: Any, tokens: str) -> None:
    slider = panel.get_by_role("slider")
    slider.press("Home")
    for _ in range(20):
        if panel.locator("output").inner_text() == tokens:
            return
        slider.press("ArrowRight")
    raise AssertionError(f"the slider has no {tokens}")


def test_a_question_is_answered_within_the_budget_and_again_beside_it(open_page) -> None:
    page, _ = open_page()
    page.get_by_role("button", name="of 4").click()
    assert page.get_by_label("Question", exact=True).input_value() == "What is $\\frac{1}{2}$ of 4?"
    page.get_by_label("Compare with another budget").check()
    one, other = page.locator(".panel").all()
    set_budget(one, "no limit")
    set_budget(other, "16 tokens")
    one.get_by_role("combobox").select_option("1")
    page.get_by_role("button", name="Ask").click()
    ended(one, "The model ended"), ended(other, "The budget ended")
    assert one.locator("[data-count=waits]").inner_text() == "1"
    assert other.locator("[data-count=tokens]").inner_text() == "16"
    assert [m.inner_text() for m in one.locator(".thinking mark").all()] == ["Wait"]
    assert (
        one.locator(".thinking math mfrac").count() == 2 and one.locator(".thinking math msqrt").count() == 2
    )
    assert "<b>it</b>" in one.locator(".thinking").inner_text()  # what a model writes is text, never markup
    assert one.locator(".answer math .boxed mfrac").count() == 1
    assert other.locator(".answer mark").inner_text() == "Final Answer:"
    page.get_by_label("Compare with another budget").uncheck()
    assert not other.is_visible()


def test_a_budget_chosen_just_before_the_question_is_sent_once(open_page) -> None:
    page, _ = open_page(pace=0.06)
    panel = page.locator(".panel")
    turns: list[str] = []
    page.on("request", lambda r: turns.append(r.url) if "/v1/thinking/" in r.url else None)
    set_budget(panel, "32 tokens")
    page.get_by_role("button", name="Ask").click()
    ended(panel, "The budget ended")
    assert turns == []


def test_a_running_request_is_turned_by_hand(open_page) -> None:
    """The model gives a few pieces at a time, so that it is never done before a button is pressed."""
    page, served = open_page(pace=0)
    model, panel = served.served.engine, page.locator(".panel")
    set_budget(panel, "no limit")
    model.allowed = 5
    page.get_by_role("button", name="Ask").click()
    with page.expect_response("**/v1/thinking/*"):
        panel.get_by_role("button", name="Wait").click()
    model.allowed = 1.5 * PIECES
    panel.locator("mark").wait_for(timeout=60_000)  # the first end was suppressed
    with page.expect_response("**/v1/thinking/*"):
        panel.get_by_role("button", name="Answer now").click()
    model.allowed = math.inf
    ended(panel, "You ended the thinking")
    model.allowed = model.given + 5
    page.get_by_role("button", name="Ask").click()
    page.locator(".panel button:enabled", has_text="Wait").wait_for()
    with page.expect_response("**/v1/thinking/*"):
        set_budget(panel, "32 tokens")
    model.allowed = math.inf
    ended(panel, "The budget ended")
    model.allowed = model.given + 5
    page.get_by_role("button", name="Ask").click()
    panel.get_by_role("button", name="Stop").click()
    ended(panel, "Stopped")
    until(lambda: model.running == 0)


def test_it_works_by_keyboard_alone_on_a_phone_in_the_dark(open_page) -> None:
    page, _ = open_page(viewport={"width": 360, "height": 700}, color_scheme="dark", reduced_motion="reduce")
    page.locator(".panel").wait_for()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(
            page.locator(":focus").evaluate_all("found => found.map(e => e.id || e.type || e.className)")[0]
        )
    assert reached[0] == "question" and {"submit", "compare", "range", "select-one", "thinking"} <= set(
        reached
    )
    page.get_by_label("Question", exact=True).focus()
    page.keyboard.type(" please")
    page.keyboard.press("Control+Enter")
    ended(page.locator(".panel"), "answer tokens")
    sizes = page.locator("html").evaluate_all("found => [found[0].scrollWidth, found[0].clientWidth]")
    assert sizes[0] <= sizes[1]  # nothing is cut off at the side
    dark = page.locator("body").evaluate_all("found => getComputedStyle(found[0]).backgroundColor")
    assert max(int(part) for part in dark[4:-1].split(",")) < 60


def test_a_screen_reader_finds_a_name_for_everything(open_page) -> None:
    page, _ = open_page()
    panel = page.get_by_role("region", name="The dial")
    panel.wait_for()
    assert panel.get_by_role("slider", name="Thinking budget").get_attribute("aria-valuetext") == "256 tokens"
    for role, name in (
        ("button", "Wait"),
        ("button", "Answer now"),
        ("combobox", "Waits"),
        ("region", "Thinking"),
    ):
        assert panel.get_by_role(role, name=name).count() == 1, name
    assert page.get_by_role("textbox", name="Question").count() == 1
    assert panel.locator("[aria-live=polite]").count() == 1 and page.locator("html[lang=en]").count() == 1
    assert page.locator("#examples math").first.get_attribute("aria-label") == "\\frac{1}{2}"


def test_a_server_with_a_key_asks_for_it(open_page) -> None:
    page, _ = open_page(key="open sesame")
    page.get_by_label("Key").fill("open sesame")
    page.get_by_label("Question", exact=True).fill("2+2?")
    page.get_by_role("button", name="Ask").click()
    ended(page.locator(".panel"), "answer tokens")


FORMULAS = {
    r"\frac12 + x_i^2": ("mfrac", "msubsup"),
    r"\sqrt[3]{8} \le 2": ("mroot", "mo"),
    r"\lim_{x \to 0} \sin x": ("munder",),
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}": ("mtable", "mtr", "mtd"),
    r"\begin{cases} 1 & x > 0 \\ 0 \end{cases}": ("mtable",),
    r"\left( \frac{a}{b} \right]": ("mfrac",),
    r"\binom{n}{k} \pmod{7}": ("mfrac",),
    r"\unknown{x}": ("mtext",),
    r"\frac{1}{": ("mfrac",),
    r"} x": ("math",),
    r"\begin{cases} 1 & 2": ("mtable",),
    "{" * 500: ("mtext",),
    r"\hat{x} + \vec v + \mathbb{R}": ("mover", "mi"),
}


def test_formulas_become_mathml_and_broken_ones_stay_readable(open_page) -> None:
    page, _ = open_page()
    page.locator(".panel").wait_for()
    for source, names in FORMULAS.items():
        html = page.locator("body").evaluate_all(
            "(found, source) => MathText.math(source, false).outerHTML", source
        )
        assert all(f"<{name}" in html for name in names), (source, html)
