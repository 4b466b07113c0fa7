"""The page of a small run whose questions, traces and answers try to break out of it."""

import base64
import dataclasses
import gzip
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from s1.errors import BadInput
from s1.evals.metrics import read_metrics, write_metrics
from s1.evals.run import grade_run
from s1.evals.run_metrics import metrics_of
from s1.report.page import write_page
from s1.report.page_traces import BLOCK, PHASES, pack, packed
from s1.runs import (
    PolicyRecord,
    RunConfig,
    key_of,
    open_run,
    read_config,
    read_generations,
    read_grades,
    write_grades,
)
from s1.types import Generation, Grade, Question, Segment, to_json

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to open the page with")


HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'> & é"
QUESTIONS = [Question(f"q{i}", f"What is {i} plus {i}? <b>bold</b>", str(2 * i), "sums") for i in range(30)]
POLICIES = [
    PolicyRecord("max_thinking=8", "budget 8", "budget", max_thinking=8),
    PolicyRecord("max_thinking=32", "budget <32>", "budget", max_thinking=32),
    PolicyRecord("natural", "natural", "natural"),
    PolicyRecord(
        'waits=1,wait=["It\'s <hm>"]', '1 "Wait"', "wait", settings={"waits": 1, "wait": ["It's <hm>"]}
    ),
]
LABELS = {p.key: p.label for p in POLICIES}
RIGHT = [8, 16, 20, 25]
TOKENS = [8, 22, 40, 55]


def generation(number: int, policy: int) -> Generation:
    thinking = f"think of {number} \N{GRINNING FACE} and again" * 3
    text = thinking[: 20 + 5 * policy] if policy < 2 else thinking
    segments = [
        Segment((0,) * 5, f"<|user|>{QUESTIONS[number].text}", "prompt", "format"),
        Segment((1,) * TOKENS[policy], text, "thinking", "model"),
    ]
    if policy == 3:
        segments += [
            Segment((2,), "Wait", "thinking", "forced"),
            Segment((3,), HOSTILE, "thinking", "model"),
        ]
    segments += [
        Segment((4,), "<|answer|>", "delimiter", "forced"),
        Segment((5,), HOSTILE, "answer", "model"),
    ]
    return Generation(
        f"q{number}", 0, POLICIES[policy].key, tuple(segments), TOKENS[policy], 1, 2, int(policy == 3),
        policy < 2, "stop", seconds=0.5,
    )  # fmt: skip


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "small"
    grades = {}
    config = RunConfig("sums", "exact", "tiny </title><script>", tuple(POLICIES))
    with open_run(path, config, QUESTIONS) as run:
        for number in range(len(QUESTIONS)):
            for policy in range(len(POLICIES)):
                g = generation(number, policy)
                run.append(g)
                # one question is lost by the wait: 19 is right at the natural end only
                right = number < RIGHT[policy] and not (policy == 3 and number == 19)
                grades[key_of(g)] = Grade("right" if right else "wrong", HOSTILE, "test")
        run.finish()
    write_grades(path, grades)
    write_metrics(path, metrics_of(read_config(path), QUESTIONS, read_generations(path), grades, draws=200))
    return path


class Outline(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.scripts, self._in = [], [], {}, None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = (tag, dict(attrs).get("id"))

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in and self._in[0] == "script":
            self.scripts[self._in[1]] = self.scripts.get(self._in[1], "") + data
        else:
            self.text.append(data)


def outline(path) -> Outline:
    parsed = Outline()
    parsed.feed(path.read_text())
    return parsed


def unpacked(text):
    return json.loads(gzip.decompress(base64.b64decode(text)))


def dom(path, fragment, profile) -> str:
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
        "--virtual-time-budget=10000", "--dump-dom", f"{path.as_uri()}#{fragment}",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_page_holds_the_metrics_and_every_policy(run_folder):
    page = outline(write_page(run_folder))
    assert json.loads(page.scripts["metrics"]) == to_json(read_metrics(run_folder))
    rows = [attrs["data-policy"] for tag, attrs in page.tags if tag == "tr" and "data-policy" in attrs]
    assert rows == list(LABELS)
    dots = [attrs["href"] for tag, attrs in page.tags if attrs.get("class") == "dot"]
    assert sorted(unquote(dot) for dot in dots) == sorted(f"#policy={key}" for key in LABELS)
    text = " ".join(page.text)
    assert "Control" in text and "100 %" in text and "30 questions" in text and "20 of 30" not in text


def test_the_page_of_a_run_that_stopped_early_says_so_first(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "stopped")
    lines = (folder / "generations.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "generations.jsonl").write_bytes(b"".join(lines[:49]))
    grade_run(folder)
    page = outline(write_page(folder))
    text = "".join(page.text)
    assert "incomplete: 49 of 120 generations" in text and text.index("incomplete") < text.index("Control")
    assert ("p", {"class": "warning", "role": "alert"}) in page.tags and "Best:" not in text


def test_the_page_asks_the_network_for_nothing(run_folder):
    path = write_page(run_folder)
    page = outline(path)
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed") and "src" not in attrs, (tag, attrs)
        assert attrs.get("href", "#").startswith("#")
    assert not re.search(r"https?://|url\((?!#)|@import", path.read_text())
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_nothing_that_a_model_wrote_is_markup(run_folder):
    page = outline(write_page(run_folder))
    kinds = [attrs.get("type") for tag, attrs in page.tags if tag == "script"]
    assert kinds == ["application/json", "text/plain", "text/plain", "text/plain", None]
    assert not any(tag == "b" or "onerror" in attrs for tag, attrs in page.tags)
    assert "owned" not in write_page(run_folder).read_text()


def test_the_page_is_the_same_every_time(run_folder):
    assert write_page(run_folder).read_bytes() == write_page(run_folder).read_bytes()


def test_every_segment_comes_back_from_the_packed_texts(run_folder):
    held = pack(QUESTIONS, LABELS, read_generations(run_folder), read_grades(run_folder))
    assert len(held.blocks) == 2 and held.traced == 30 and BLOCK == 25
    for number in (0, 26):
        texts, traces = unpacked(held.blocks[number // BLOCK])[number % BLOCK]
        assert len(texts) == 5, "prompt, longest thinking, wait, hostile text, cue: forks are prefixes"
        for policy, sample, segments, rollouts in traces:
            shown = []
            for phase, forced, text, length in segments:
                units = texts[text].encode("utf-16-le", "surrogatepass")[: 2 * length]
                shown.append((PHASES[phase], bool(forced), units.decode("utf-16-le", "surrogatepass")))
            wanted = generation(number, policy)
            assert (
                sample == 0
                and not rollouts
                and shown == [(s.phase, s.by == "forced", s.text) for s in wanted.segments]
            )


def test_a_page_over_its_limit_keeps_the_first_questions_and_says_so(run_folder):
    held = pack(QUESTIONS, LABELS, read_generations(run_folder), {}, limit=10)
    assert held.traced == 25 and len(held.blocks) == 1
    index = unpacked(held.overview)
    assert index["policies"] == [[key, label] for key, label in LABELS.items()]
    assert index["traced"] == 25 and len(index["rows"]) == 120 and index["rows"][0][3] == -1


def test_a_big_run_stays_a_small_page():
    text = " ".join(f"step {i} gives {i * i}" for i in range(3000))
    forks = []
    for i in range(11):
        fork = Segment((), text[: len(text) * (i + 1) // 11], "thinking", "model")
        forks.append(dataclasses.replace(generation(0, 2), policy=f"p{i}", segments=(fork,)))
    held = pack(QUESTIONS[:1], {g.policy: "" for g in forks}, forks, {})
    assert sum(map(len, held.blocks)) < 1.05 * len(packed(text)) + 1000, "eleven prefixes cost one text"


def test_half_a_character_is_packed_and_comes_back():
    half = dataclasses.replace(generation(0, 2), segments=(Segment((), "a\ud83d", "answer", "model"),))
    held = pack(QUESTIONS[:1], {"natural": "natural"}, [half], {})
    assert unpacked(held.blocks[0])[0] == [["a\ud83d"], [[0, 0, [[3, 0, 0, 2]], []]]]


def test_a_run_without_metrics_is_refused(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "r")
    (tmp_path / "r" / "metrics.json").unlink()
    with pytest.raises(BadInput, match=r"metrics\.json is missing"):
        write_page(tmp_path / "r")
    with pytest.raises(BadInput, match="not a run folder"):
        write_page(tmp_path / "nothing")


@needs_browser
def test_a_browser_shows_the_trace_with_hostile_text_as_text(run_folder, tmp_path):
    path = write_page(run_folder)
    shown = dom(path, f"policy={quote(POLICIES[3].key)}&question=q26", tmp_path)
    trace = shown[shown.index('<article id="trace">') :]
    trace = trace[: trace.index("</article>")]
    assert "<script" not in trace and "<img" not in trace and "<b>" not in trace
    assert trace.count("&lt;/script&gt;&lt;script&gt;document.title='owned'") == 3, (
        "answer found, thinking, answer"
    )
    assert "<title>owned" not in shown
    marks = re.findall(r'<mark class="forced"[^>]*><span class="tag">forced</span>([^<]*)</mark>', trace)
    assert marks == ["Wait", "&lt;|answer|&gt;"]
    assert "think of 26 \N{GRINNING FACE} and again" in trace and "What is 26 plus 26? &lt;b&gt;" in trace
    assert re.search(r"<details><summary>Prompt", trace), "the prompt is collapsed"
    assert HOSTILE.count("<") == 4


@needs_browser
def test_a_browser_filters_by_flips_and_opens_the_first_match(run_folder, tmp_path):
    wait = quote(POLICIES[3].key)
    shown = dom(write_page(run_folder), f"policy={wait}&show=lost&against=natural", tmp_path)
    assert "1 of 30 answers" in shown and listed(shown) == ["19"]
    shown = dom(write_page(run_folder), f"policy={wait}&show=gained&against=natural", tmp_path / "2")
    assert listed(shown) == [str(i) for i in range(20, 25)]
    assert "<h2>What is 20 plus 20?" in shown


def listed(shown: str) -> list[str]:
    """The numbers of the questions in the table of answers."""
    return re.findall(r'<td class="question"[^>]*>What is (\d+)', shown)
