"""The figure repeats to the byte and shows what the metrics say."""

import re

import pytest

from s1.errors import BadInput
from s1.report.curve import _OTHER_SHAPES, curve
from s1.report.figures import scaling_figure
from s1.report.layout import (
    OTHERS,
    axis_of,
    caption,
    label_of,
    others_of,
    series_of,
    spots_of,
    ticks_of,
    x_of,
)

pytest.importorskip("matplotlib", reason="matplotlib draws the figure; install s1[report]")


def point(policy, tokens, accuracy, kind="budget", **more):
    fields = {"policy": policy, "thinking_tokens": tokens, "accuracy": accuracy, "kind": kind, "n": 10}
    return fields | {"low": accuracy - 5, "high": accuracy + 5, "waits": 0, "max_thinking": None} | more


SOME = [
    point("budget 16", 16, 30, max_thinking=16),
    point("budget 32", 31, 50, max_thinking=32),
    point("natural", 50, 60, "natural"),
    point("1 wait", 70, 66, "wait", waits=1),
    point("2 waits", 88, 69, "wait", waits=2),
    point("majority of 4", 200, 64, "vote"),
]


def test_the_figure_is_the_same_every_time(tmp_path):
    metrics = {"points": [dict(p) for p in SOME], "model": "m", "benchmark": "sums"}
    first = scaling_figure(metrics, tmp_path)
    second = scaling_figure(metrics, tmp_path, name="again")
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes() and one.stat().st_size > 5_000
    assert [p.name for p in first] == ["scaling.png", "scaling.svg"]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert not re.search(rb"<dc:date>|20\d\d-\d\d-\d\d", first[1].read_bytes())


def test_other_numbers_give_another_figure(tmp_path):
    metrics = {"points": [dict(p) for p in SOME], "model": "m", "benchmark": "sums"}
    one = scaling_figure(metrics, tmp_path, name="one")[1].read_bytes()
    metrics["points"][0]["accuracy"] += 3
    assert scaling_figure(metrics, tmp_path, name="two")[1].read_bytes() != one


def test_zero_tokens_one_point_and_dollar_signs_are_drawn(tmp_path):
    points = [point("budget 0", 0, 10, max_thinking=0), point("budget 16", 16, 50, max_thinking=16)]
    scaling_figure({"points": points, "model": "a $x_$ model"}, tmp_path)
    scaling_figure({"points": points[:1]}, tmp_path)
    with pytest.raises(BadInput, match="no point to draw"):
        scaling_figure({"points": [point("a", 3, 50) | {"accuracy": None}]}, tmp_path)


def test_zero_tokens_stand_left_of_the_smallest_and_are_named():
    points = [point("a", 0, 10), point("b", 16, 50), point("c", 64, 60)]
    assert x_of(points) == [2.0, 4.0, 6.0]
    assert ticks_of(points) == [(2.0, "0"), (4.0, "16"), (5.0, "32"), (6.0, "64")]


def test_points_on_one_spot_share_a_label_and_waits_do_not():
    points = [
        point("budget 16", 16, 20),
        point("budget 128", 50, 60),
        point("natural", 50.2, 60.5, "natural"),
    ]
    points.append(point("1 wait", 50.3, 61, "wait"))
    xs = dict(zip((p["policy"] for p in points), x_of(points), strict=True))
    assert [[p["policy"] for p in spot] for spot in spots_of(points, xs)] == [
        ["budget 16"],
        ["budget 128", "natural"],
        ["1 wait"],
    ]


def test_each_wait_string_has_its_own_line():
    points = [point(f"{n} {w}", 50 + n, 60, "wait", wait=w, waits=n) for w in ("Wait", "Hmm") for n in (2, 1)]
    series = series_of(points)
    assert sorted(name.split()[-1] for _, name in series) == ["'Hmm'", "'Wait'"]
    assert [p["waits"] for p in next(iter(series.values()))] == [1, 2]
    xs = dict(zip((p["policy"] for p in points), x_of(points), strict=True))
    assert [[p["policy"] for p in s] for s in spots_of(points, xs)] == [
        ["1 Wait", "1 Hmm"],
        ["2 Wait", "2 Hmm"],
    ]
    assert label_of(points[0]) == "2×" and label_of(point("b", 1, 1, max_thinking=4096)) == "4,096"


def test_the_caption_says_how_many_and_when_counts_are_estimates():
    metrics = {"points": [point("a", 1, 1)], "samples": 4, "confidence": 0.95, "exact": False}
    assert (
        caption(metrics)
        == "n = 10 questions, 4 samples each · bars: 95 % intervals · token counts are estimates"
    )


def test_a_method_of_several_rollouts_stands_where_all_of_them_cost():
    vote = point("majority of 4", 50, 60, "majority", spent={"thinking": 256.0, "rollouts": 4.0})
    alone = point("natural", 64, 60, "natural", spent={"thinking": 64.0, "rollouts": 1.0})
    assert x_of([alone, vote]) == [6.0, 8.0]
    assert (axis_of([alone]), axis_of([alone, vote])) == (
        "mean thinking tokens",
        "mean thinking tokens of all rollouts",
    )
    assert "256 thinking tokens" in curve({"points": [alone, vote]})


def test_other_kinds_have_markers_of_their_own(tmp_path):
    kinds = [f"kind {i}" for i in range(len(OTHERS))]
    points = [point(k, 10 + i, 50, k) for i, k in enumerate(kinds)]
    assert others_of(points) == {k: i for i, k in enumerate(kinds)}
    assert len(_OTHER_SHAPES) == len(OTHERS)
    drawn = curve({"points": points})
    assert all(f"other-{i + 1}" in drawn for i in range(len(OTHERS)))
    scaling_figure({"points": [*points, point("one more", 99, 50, "kind 9")]}, tmp_path)
