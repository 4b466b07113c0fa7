"""The figure repeats to the byte and shows what the metrics say."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.errors import BadInput
from s1.evals.metrics import MeanSpent, Metrics, Point
from s1.report.curve import (
    OTHER_STYLES,
    axis_of,
    caption_of,
    dots_of,
    series_of,
    spots_of,
    ticks_of,
    title_of,
)
from s1.report.figures import page_figure, scaling_figure
from s1.report.labels import Label, place_labels

pytest.importorskip("matplotlib", reason="matplotlib draws the figure; install .[report]")


def point(key, tokens, accuracy, kind="budget", rollouts=1.0, own=None, **more):
    spent = MeanSpent(tokens, 3.0, 0.0, rollouts, 0.0)
    made = Point(
        key, key, kind, max_thinking=None, min_thinking=None, waits=0, wait=(), n=10,
        accuracy=accuracy, low=accuracy - 5, high=accuracy + 5, interval="bootstrap", accuracy_best=accuracy,
        thinking_tokens=own or tokens, thinking_tokens_median=tokens, thinking_tokens_max=tokens, spent=spent,
        answer_tokens=3.0, waits_appended=0.0, forced_share=None, cut_share=0.0, outcomes={"error": 0},
        seconds=1.0, exact=True,
    )  # fmt: skip
    return replace(made, **more)


def metrics(points, **more):
    made = Metrics(
        3, "m", "sums", "1", "abc", "strict", exact=True, questions=10, complete=10, done=10, expected=10, samples=1,
        confidence=0.95,
        points=tuple(points), control=(), scaling_per_doubling=None,
        robust_scaling_per_doubling=None, scaling_per_1k=None, robust_scaling_per_1k=None, performance=None,
        flips=(), smallest_difference=None, advice=None,
    )  # fmt: skip
    return replace(made, **more)


SOME = [
    point("budget 16", 16, 30, max_thinking=16),
    point("budget 32", 31, 50, max_thinking=32),
    point("natural", 50, 60, "natural"),
    point("1 wait", 70, 66, "wait", waits=1),
    point("2 waits", 88, 69, "wait", waits=2),
    point("majority of 4", 200, 64, "vote"),
]


def dots(points):
    return dots_of(metrics(points))


def test_the_figure_is_the_same_every_time(tmp_path):
    first = scaling_figure(metrics(SOME), tmp_path)
    second = scaling_figure(metrics(SOME), tmp_path, name="again")
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes() and one.stat().st_size > 5_000
    assert [p.name for p in first] == ["scaling.png", "scaling.svg"]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert not re.search(rb"<dc:date>|20\d\d-\d\d-\d\d", first[1].read_bytes())
    assert page_figure(metrics(SOME)) == page_figure(metrics(SOME))


def test_other_numbers_give_another_figure(tmp_path):
    one = scaling_figure(metrics(SOME), tmp_path, name="one")[1].read_bytes()
    other = metrics([replace(SOME[0], accuracy=33), *SOME[1:]])
    assert scaling_figure(other, tmp_path, name="two")[1].read_bytes() != one


def test_zero_tokens_one_point_and_dollar_signs_are_drawn(tmp_path):
    points = [point("budget 0", 0, 10, max_thinking=0), point("budget 16", 16, 50, max_thinking=16)]
    scaling_figure(metrics(points, model="a $x_$ model"), tmp_path)
    scaling_figure(metrics(points[:1]), tmp_path)
    nothing = metrics([replace(points[0], accuracy=None)])
    assert page_figure(nothing) == ""
    with pytest.raises(BadInput, match="no point"):
        scaling_figure(nothing, tmp_path)


def test_a_dot_of_the_page_has_a_link_and_a_tooltip():
    key = 'waits=1,wait=["It\'s <b> & c"]'
    drawn = page_figure(metrics([*SOME[:3], point(key, 70, 66, "wait", waits=1)]))
    links = re.findall(r'<a class="dot" href="([^"]*)"><title>([^<]*)</title>', drawn)
    assert (
        len(links) == 4 and ("#policy=natural", "natural: 60.0 % [55.0, 65.0], 50 thinking tokens") in links
    )
    assert "<b>" not in drawn and "target=" not in drawn and "http" not in drawn


def test_zero_tokens_are_left_of_the_smallest_and_are_named():
    found = dots([point("a", 0, 10), point("b", 16, 50), point("c", 64, 60)])
    assert [d.x for d in found] == [2.0, 4.0, 6.0]
    assert ticks_of(found) == [(2.0, "0"), (4.0, "16"), (5.0, "32"), (6.0, "64")]


def test_points_on_one_spot_share_a_label_and_waits_do_not():
    points = [
        point("budget 16", 16, 20),
        point("budget 128", 50, 60),
        point("natural", 50.2, 60.5, "natural"),
        point("1 wait", 50.3, 61, "wait"),
    ]
    spots = [[d.point.key for d in spot] for spot in spots_of(dots(points))]
    assert spots == [["budget 16"], ["budget 128", "natural"], ["1 wait"]]


def test_each_wait_string_has_its_own_line():
    points = [
        point(f"{n} {w}", 50 + n, 60, "wait", wait=(w,), waits=n) for w in ("Wait", "Hmm") for n in (2, 1)
    ]
    series = series_of(dots(points))
    assert sorted(line.style.legend.split()[-1] for line in series) == ["'Hmm'", "'Wait'"]
    assert len({(line.style.colour, line.style.marker) for line in series}) == 2
    assert [d.point.waits for d in series[0].dots] == [1, 2]
    spots = [[d.point.key for d in spot] for spot in spots_of(dots(points))]
    assert spots == [["1 Wait", "1 Hmm"], ["2 Wait", "2 Hmm"]]
    assert [d.label for d in dots([points[0], point("b", 1, 1, max_thinking=4096)])] == ["2×", "4,096"]


def test_the_caption_says_how_many_and_when_counts_are_estimates():
    text = caption_of(metrics(SOME, samples=4, exact=False))
    assert "n = 10 questions, 4 samples each" in text and "95 %" in text and "estimates" in text


def test_a_method_of_several_rollouts_is_placed_at_the_cost_of_all_of_them():
    vote = point("majority of 4", 256, 60, "majority", rollouts=4.0, own=50)
    alone = point("natural", 64, 60, "natural")
    assert [d.x for d in dots([alone, vote])] == [6.0, 8.0]
    assert axis_of(metrics([alone])) == "mean thinking tokens"
    assert axis_of(metrics([alone, vote])).endswith("of all rollouts")
    assert "256 thinking tokens" in page_figure(metrics([alone, vote]))


def test_other_methods_have_styles_of_their_own(tmp_path):
    points = [point(f"kind {i}", 10 + i, 50, f"kind {i}") for i in range(len(OTHER_STYLES) + 1)]
    styles = [(line.style.colour, line.style.marker) for line in series_of(dots(points))]
    assert styles == [*OTHER_STYLES, OTHER_STYLES[0]]
    scaling_figure(metrics(points), tmp_path)


@pytest.mark.parametrize("tokens", [(70, 72, 90), (100, 101), (5000, 5200, 6100), (3, 3.5), (64,)])
def test_the_axis_has_numbers_where_the_points_are_close(tokens):
    ticks = ticks_of(dots([point(f"p{n}", n, 50) for n in tokens]))
    assert len(ticks) >= 2 and len({label for _, label in ticks}) == len(ticks)
    assert all(abs(2**place - float(label.replace(",", ""))) < 1e-6 * 2**place for place, label in ticks)
    assert len(tokens) == 1 or sum(place <= math.log2(max(tokens)) + 0.1 for place, _ in ticks) >= 2


def test_the_title_says_what_was_found():
    assert title_of(metrics(SOME)) == "30 % right with 16 thinking tokens, 69 % with 88"
    assert title_of(metrics(SOME[:1])) == "30 % right with 16 thinking tokens"
    assert "more gave no more" in title_of(metrics([SOME[0], replace(SOME[1], accuracy=20)]))
    unfinished = title_of(metrics(SOME, done=3))
    assert "%" not in unfinished and title_of(metrics([])) == unfinished


SPOTS = st.tuples(st.floats(0, 10), st.floats(0, 100), st.text("majority of 8,", min_size=1, max_size=24))


@settings(max_examples=10, deadline=None)
@given(st.lists(SPOTS, min_size=2, max_size=8))
def test_labels_do_not_cover_each_other_where_there_is_room(spots):
    from matplotlib.figure import Figure

    far = [s for i, s in enumerate(spots) if all(abs(s[1] - t[1]) > 12 for t in spots[:i])]
    axes = Figure(figsize=(7.6, 5.2), layout="constrained").add_subplot()
    axes.set_xlim(0, 10)
    axes.set_ylim(-10, 110)
    place_labels(axes, [Label(text, x, y, y - 2, y + 2, "black") for x, y, text in far], [])
    boxes = [text.get_window_extent() for text in axes.texts]
    frame = axes.get_window_extent()
    assert [text.get_text() for text in axes.texts] == [text for _, _, text in far]
    for i, box in enumerate(boxes):
        assert frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_the_legend_is_below_the_axes_where_it_covers_nothing(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k)))
    scaling_figure(
        metrics([*SOME, *(point(f"kind {i}", 10 + i, 50, f"kind {i}") for i in range(5))]), tmp_path
    )
    for figure in saved:
        figure.draw_without_rendering()
        legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
        assert legend.y1 <= axes.y0 and legend.y0 >= 0 and legend.x1 <= figure.bbox.x1
