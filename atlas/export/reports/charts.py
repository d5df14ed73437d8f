"""Counts -> small inline SVG pictures that need no script and follow the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from atlas.export.pictures.lettering import number

_WIDTH, _HEIGHT, _FOOT = 460.0, 96.0, 18.0
_STRIP = 34.0


def histogram(about: dict[str, Any]) -> Markup | None:
    """Activations of one neuron: log counts by bin between hist_lo and hist_hi, beyond them the outermost bars.

    A line at 0, dashed ones where strong firings begin (fire_neg, fire_pos). None where nothing was measured.
    """
    counts, low, high = about.get("hist"), about.get("hist_lo"), about.get("hist_hi")
    if not counts or low is None or high is None or not high > low:
        return None
    top = math.log1p(max(counts)) or 1.0
    width = _WIDTH / len(counts)
    bars = "".join(
        f'<rect class="bar" x="{place * width:.2f}" y="{_HEIGHT - tall:.2f}" width="{max(width - 1, 0.5):.2f}" '
        f'height="{tall:.2f}"/>'
        for place, count in enumerate(counts)
        if count and (tall := max(math.log1p(count) / top * (_HEIGHT - 4), 1.0))
    )
    inner = (low, high, width)
    lines = _line(0.0, "zero", inner) + "".join(
        _line(about[name], "fire", inner) for name in ("fire_neg", "fire_pos") if about.get(name) is not None
    )
    foot = "".join(
        f'<text x="{x:.1f}" y="{_HEIGHT + 14:.0f}" text-anchor="{anchor}">{escape(number(value))}</text>'
        for x, anchor, value in ((0, "start", low), (_WIDTH, "end", high))
    )
    told = f"Histogram of activations from {number(low)} to {number(high)}, logarithmic counts"
    return _svg(_HEIGHT + _FOOT, told, bars + lines + foot)


def layer_strip(layers: Sequence[tuple[int, int]], count: int, here: int) -> Markup | None:
    """Members of a module by layer as bars over all `count` layers; `here` is marked. None without members."""
    if not layers:
        return None
    most, width = max(members for _, members in layers), _WIDTH / count
    bars = "".join(
        f'<rect class="bar{" here" if layer == here else ""}" x="{layer * width:.2f}" y="{_STRIP - tall:.2f}" '
        f'width="{max(width - 1, 0.5):.2f}" height="{tall:.2f}"><title>layer {layer}: {members}</title></rect>'
        for layer, members in layers
        if (tall := max(members / most * (_STRIP - 4), 1.0))
    )
    foot = (
        f'<text x="0" y="{_STRIP + 14:.0f}">layer 0</text>'
        f'<text x="{_WIDTH:.0f}" y="{_STRIP + 14:.0f}" text-anchor="end">{count - 1}</text>'
    )
    return _svg(_STRIP + _FOOT, f"Members of the module by layer; this neuron is in layer {here}", bars + foot)


def _line(value: float, kind: str, inner: tuple[float, float, float]) -> str:
    """A vertical line at a value, where it lies inside; the first and last bin are what lies beyond."""
    low, high, width = inner
    share = (value - low) / (high - low)
    if not 0 <= share <= 1:
        return ""
    x = width + share * (_WIDTH - 2 * width)
    return f'<line class="{kind}" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="{_HEIGHT:.0f}"/>'


def _svg(height: float, told: str, inner: str) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(told)}">'
    return Markup(f"{head}{inner}</svg>")
