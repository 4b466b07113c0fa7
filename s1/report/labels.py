"""Labels beside the dots of a figure, placed so that they overlap neither each other nor what is drawn.

matplotlib has no such tool. Each label tries a few places around its dot and takes the one that covers least.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

SIZE = 9
"""Points."""


class Label(NamedTuple):
    """What to write beside a dot at (x, y), whose bar reaches from `low` to `high`; all in units of the data."""

    text: str
    x: float
    y: float
    low: float
    high: float
    colour: str


class Box(NamedTuple):
    """A rectangle in pixels, and how bad it is to cover it."""

    left: float
    bottom: float
    right: float
    top: float
    weight: float = 1.0

    def covers(self, other: Box) -> float:
        """The share of this box that the other covers, times the other's weight."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        area = (self.right - self.left) * (self.top - self.bottom)
        return other.weight * wide * high / area if wide > 0 and high > 0 else 0.0


PLACES = (
    ("dot", 8, -5, "left", "top"),
    ("high", 0, 4, "center", "bottom"),
    ("dot", 8, 5, "left", "bottom"),
    ("low", 0, -4, "center", "top"),
    ("dot", -8, 5, "right", "bottom"),
    ("dot", -8, -5, "right", "top"),
    ("high", 0, 16, "center", "bottom"),
    ("low", 0, -16, "center", "top"),
    ("high", 4, 4, "left", "bottom"),
    ("low", -4, -4, "right", "top"),
    ("low", 4, -4, "left", "top"),
    ("high", -4, 4, "right", "bottom"),
)
"""Anchor, offset in points, alignment; the first that is free is taken."""
STEPS = 24
"""How many boxes stand for one piece of a line."""


def place_labels(axes: Any, labels: Sequence[Label], lines: Iterable[Sequence[tuple[float, float]]]) -> None:
    """Write the labels into axes whose limits are set; `lines` are the curves, as points of the data."""
    figure = axes.figure
    figure.draw_without_rendering()  # sets the layout, and with it where the data is in pixels
    point = figure.dpi / 72
    to_pixels = axes.transData.transform
    taken: list[Box] = []
    for label in labels:
        x, y = to_pixels((label.x, label.y))
        bottom, top = (to_pixels((label.x, v))[1] for v in (label.low, label.high))
        taken.append(Box(x - 5 * point, y - 5 * point, x + 5 * point, y + 5 * point, 3.0))
        taken.append(Box(x - 3 * point, bottom, x + 3 * point, top, 3.0))
    for line in lines:
        spots = [tuple(to_pixels(each)) for each in line]
        for (x0, y0), (x1, y1) in zip(spots, spots[1:], strict=False):
            for k in range(STEPS):
                x, y = x0 + (x1 - x0) * k / STEPS, y0 + (y1 - y0) * k / STEPS
                taken.append(Box(x - point, y - point, x + point, y + point, 2.0))
    frame = axes.get_window_extent()
    for label in labels:
        drawn = axes.text(0, 0, label.text, fontsize=SIZE)
        extent = drawn.get_window_extent()
        drawn.remove()
        best, least = Box(0, 0, 0, 0), math.inf
        for anchor, right, up, ha, va in PLACES:
            at = {"dot": label.y, "low": label.low, "high": label.high}[anchor]
            x, y = to_pixels((label.x, at))
            left = x + right * point - {"left": 0.0, "center": extent.width / 2, "right": extent.width}[ha]
            if anchor != "dot":  # above or below the bar it may be moved into the frame
                left = max(frame.x0, min(left, frame.x1 - extent.width))
            bottom = y + up * point - (extent.height if va == "top" else 0.0)
            box = Box(left, bottom, left + extent.width, bottom + extent.height, 10.0)
            inside = box.covers(Box(frame.x0, frame.y0, frame.x1, frame.y1))
            cost = 20 * (1 - inside) + sum(box.covers(other) for other in taken)
            if cost < least - 1e-9:
                best, least = box, cost
        taken.append(best)
        x, y = axes.transData.inverted().transform((best.left, best.bottom))
        axes.text(x, y, label.text, fontsize=SIZE, color=label.colour, va="bottom", zorder=5).set_in_layout(
            False
        )
