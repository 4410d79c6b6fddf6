"""A figure of stretches along chromosomes, one row each, for a report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from snvrag.report_figures import WIDE, Axis, Table, at, figure, nice_ticks, svg

# Between blocks that are wide enough for one.
_GAP = 0.7
_CLASSES = 6
_ROUND = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
_LEFT, _ROW, _BLOCK = 64, 38, 24


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a chromosome in a :class:`Track`."""

    first: int
    last: int
    value: float
    """What colours it."""
    full: bool
    """Whether it has the full height, else half of it."""
    tip: str


@dataclass(frozen=True, slots=True)
class Track:
    """Stretches along chromosomes, one row each, coloured by a value on a logarithmic scale."""

    title: str
    note: str
    rows: Sequence[tuple[str, Sequence[Block]]]
    """Chromosome and its blocks in order."""
    unit: str
    full_label: str
    half_label: str
    table: Table

    def html(self) -> str:
        """The figure with legend and table."""
        blocks = [block for _, row in self.rows for block in row]
        edges = _class_edges([block.value for block in blocks])
        low, high = min(b.first for b in blocks), max(b.last for b in blocks)
        axis = Axis("", low, high, [])
        height = _ROW * len(self.rows) + 54
        across = WIDE - _LEFT - 14

        def place(position: float) -> float:
            return _LEFT + across * axis.share(position)

        parts = []
        for number, (name, row) in enumerate(self.rows):
            base = _ROW * number + 10 + _BLOCK
            parts.append(
                f'<text x="{_LEFT - 10}" y="{base - 6}" text-anchor="end">{escape(name)}'
                f'</text><path class="axis" d="M{at(place(row[0].first))} {base}'
                f'H{at(place(row[-1].last))}"/>'
            )
            for block in row:
                x, right = place(block.first), place(block.last)
                gap = _GAP if right - x > 4 * _GAP else 0
                tall = _BLOCK if block.full else _BLOCK / 2
                shade = sum(block.value >= edge for edge in edges)
                parts.append(
                    f'<rect class="q{shade}" x="{at(x)}" y="{at(base - tall)}" '
                    f'width="{at(max(right - x - gap, _GAP))}" height="{at(tall)}">'
                    f"<title>{escape(block.tip)}</title></rect>"
                )
        bottom = _ROW * len(self.rows) + 8
        parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{WIDE - 14}"/>')
        for value in nice_ticks(low / 1e6, high / 1e6, 8):
            x = place(value * 1e6)
            parts.append(
                f'<path class="tick" d="M{at(x)} {bottom}v5"/>'
                f'<text x="{at(x)}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>'
            )
        parts.append(
            f'<text class="name" x="{WIDE / 2}" y="{height - 4}" text-anchor="middle">'
            "position, Mb</text>"
        )
        drawing = svg(WIDE, height, self.title, parts)
        legend = self._legend(edges)
        return figure(self.title, self.note, drawing, legend, self.table, wide=True)

    def _legend(self, edges: Sequence[float]) -> str:
        names = [f"< {edges[0]:g} {self.unit}"] if edges else [f"any {self.unit}"]
        names += [f"{a:g}–{b:g}" for a, b in pairwise(edges)]
        names += [f"≥ {edges[-1]:g} {self.unit}"] if edges else []
        samples = [(f"q{i}", 16, name) for i, name in enumerate(names)]
        samples += [("outline", 16, self.full_label), ("outline", 8, self.half_label)]
        items = [
            f'<li><svg class="swatch" viewBox="0 0 16 16" aria-hidden="true"><rect class="{kind}" '
            f'y="{16 - tall}" width="16" height="{tall}"/></svg>{escape(name)}</li>'
            for kind, tall, name in samples
        ]
        return f'<ul class="legend">{"".join(items)}</ul>'


def _class_edges(values: Sequence[float]) -> list[float]:
    """At most five round edges that part the values into classes of about equal numbers."""
    ordered = sorted(value for value in values if value > 0)
    if not ordered:
        return []
    quantiles = [ordered[len(ordered) * i // _CLASSES] for i in range(1, _CLASSES)]
    return sorted({edge for edge in map(_rounded, quantiles) if edge > ordered[0]})


def _rounded(value: float) -> float:
    """The nearest of 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    nearest = min(_ROUND, key=lambda step: abs(step * power - value))
    return round(nearest * power, 12)
