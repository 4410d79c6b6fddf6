"""Figures of a report as inline SVG, coloured by the page's CSS variables.

Every text that reaches the page goes through :func:`escape`; numbers are written with two
decimals, so that equal figures are equal bytes. Points and bars carry a ``<title>``, which
browsers show as a tooltip.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 460, 300
SHARE_TICKS = [(i / 5, f"{i / 5:g}") for i in range(6)]
_RIGHT, _TOP, _BOTTOM = 16, 14, 46
# Of a digit, and what the name of the axis and its distance take.
_DIGIT, _BESIDE = 7.6, 34
_MOST_MARKERS = 40
_STYLES = 8
WIDE = 940
_MARKERS = (
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0Z",
    "M-3.3-3.3h6.6v6.6h-6.6Z",
    "M0-4.4 4.4 0 0 4.4-4.4 0Z",
    "M0-4.2 4.2 3.4h-8.4Z",
    "M0 4.2 4.2-3.4h-8.4Z",
    "M-1.4-4h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6Z",
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart; pairs with a NaN are left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: int
    """Colour and marker, from 0."""
    dashed: bool = False
    tips: Sequence[str] = ()
    """Tooltips of the points."""
    markers: bool = True

    def points(self) -> list[tuple[float, float, str]]:
        """x, y and tooltip where both are finite."""
        tips = self.tips or [""] * len(self.x)
        pairs = zip(self.x, self.y, tips, strict=True)
        return [(x, y, tip) for x, y, tip in pairs if math.isfinite(x) and math.isfinite(y)]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: what it shows, its range and its ticks with their names."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1; values outside are moved to the end."""
        span = self.high - self.low
        return min(max((value - self.low) / span, 0.0), 1.0) if span > 0 else 0.5


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers behind a figure; cells are text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of lines over two linear axes."""

    title: str
    note: str
    """How to read it, in a sentence or two."""
    x: Axis
    y: Axis
    lines: Sequence[Line]
    table: Table
    diagonal: bool = False
    mark: tuple[float, str] | None = None
    """x and name of a vertical line."""
    cells: Sequence[Sequence[int]] = field(default_factory=list)
    """Counts by x (outer) and y (inner) in equal bins from 0 to 1, drawn as shaded squares."""
    wide: bool = False
    edges: Sequence[str] = ()
    """What lies outside the range of y, told above the plot."""

    @property
    def _width(self) -> int:
        return WIDE if self.wide else WIDTH

    @property
    def _left(self) -> float:
        return _BESIDE + _DIGIT * max([len(name) for _, name in self.y.ticks] or [1])

    def html(self) -> str:
        """The figure with legend and table."""
        drawing, legend = self._svg(), self._legend()
        return figure(self.title, self.note, drawing, legend, self.table, wide=self.wide)

    def _svg(self) -> str:
        parts = [*self._grid(), *self._squares()]
        if self.diagonal:
            start, end = self._place(0, 0), self._place(1, 1)
            parts.append(f'<path class="diagonal" d="M{_xy(*start)}L{_xy(*end)}"/>')
        if self.mark is not None:
            x, _ = self._place(self.mark[0], self.y.low)
            anchor = "end" if x > self._width * 0.7 else "start"
            shift = -4 if anchor == "end" else 4
            parts.append(
                f'<path class="mark" d="M{at(x)} {_TOP}V{HEIGHT - _BOTTOM}"/>'
                f'<text class="small" x="{at(x + shift)}" y="{_TOP + 10}" '
                f'text-anchor="{anchor}">{escape(self.mark[1])}</text>'
            )
        parts += [self._line(line) for line in self.lines]
        return svg(self._width, HEIGHT, self.title, parts)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        across, up = self._width - self._left - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return self._left + across * self.x.share(x), HEIGHT - _BOTTOM - up * self.y.share(y)

    def _grid(self) -> list[str]:
        left, bottom, right = self._left, HEIGHT - _BOTTOM, self._width - _RIGHT
        parts = []
        for value, name in self.y.ticks:
            _, y = self._place(self.x.low, value)
            parts.append(
                f'<path class="grid" d="M{at(left)} {at(y)}H{right}"/>'
                f'<text x="{at(left - 7)}" y="{at(y + 4)}" text-anchor="end">{escape(name)}</text>'
            )
        for value, name in self.x.ticks:
            x, _ = self._place(value, self.y.low)
            parts.append(
                f'<path class="tick" d="M{at(x)} {bottom}v5"/>'
                f'<text x="{at(x)}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>'
            )
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<path class="axis" d="M{at(left)} {bottom}H{right}"/>'
            f'<text class="name" x="{at((left + right) / 2)}" y="{HEIGHT - 6}" '
            f'text-anchor="middle">{escape(self.x.label)}</text>'
            f'<text class="name" transform="translate(13 {at(middle)}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y.label)}</text>'
        )
        return parts

    def _squares(self) -> list[str]:
        most = max((n for column in self.cells for n in column), default=0)
        parts = []
        for i, column in enumerate(self.cells):
            for j, n in enumerate(column):
                if n <= 0:
                    continue
                x, y = self._place(i / len(self.cells), (j + 1) / len(column))
                right, bottom = self._place((i + 1) / len(self.cells), j / len(column))
                # By the logarithm: most sites crowd in one corner.
                shade = 0.08 + 0.72 * math.log1p(n) / math.log1p(most)
                parts.append(
                    f'<rect class="cell" x="{at(x)}" y="{at(y)}" width="{at(right - x)}" '
                    f'height="{at(bottom - y)}" fill-opacity="{at(shade)}">'
                    f"<title>{n:,} sites</title></rect>"
                )
        return parts

    def _line(self, line: Line) -> str:
        points = [(*self._place(x, y), tip) for x, y, tip in line.points()]
        if not points:
            return ""
        path = "L".join(_xy(x, y) for x, y, _ in points)
        dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
        parts = [f'<path class="line" d="M{path}"{dashes}/>']
        if line.markers:
            shape = _MARKERS[line.style % len(_MARKERS)]
            dense = len(points) > _MOST_MARKERS
            size, kind = (" scale(0.5)", "point dense") if dense else ("", "point")
            parts += [
                f'<g transform="translate({_xy(x, y)}){size}"><title>{escape(tip)}</title>'
                f'<circle class="hit" r="9"/><path class="{kind}" d="{shape}"/></g>'
                for x, y, tip in points
            ]
        return f'<g class="s{line.style % _STYLES}">{"".join(parts)}</g>'

    def _legend(self) -> str:
        items = [
            f"<li>{swatch(line.style, dashed=line.dashed, marker=line.markers)}{escape(line.label)}"
            "</li>"
            for line in self.lines
            if line.label and line.points()
        ]
        items += [f'<li class="edge">{escape(text)}</li>' for text in self.edges]
        return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


def figure(
    title: str, note: str, drawing: str, legend: str, table: Table, *, wide: bool = False
) -> str:
    """A figure with its heading, legend, note and, folded, its numbers."""
    kind = ' class="wide"' if wide else ""
    if wide:
        drawing = (
            f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(title)}: plot">'
            f"{drawing}</div>"
        )
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f"<figure{kind}><figcaption><h3>{escape(title)}</h3></figcaption>{legend}{drawing}"
        f"{told}<details><summary>Numbers</summary>"
        f"{table_html(table, title)}</details></figure>\n"
    )


def table_html(table: Table, caption: str = "") -> str:
    """A table whose first column heads its rows."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in table.rows
    )
    named = f'<caption class="hidden">{escape(caption)}</caption>' if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(caption)}: table">'
        f"<table>{named}<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    """An SVG image named ``label``."""
    return (
        f'<svg class="plot" viewBox="0 0 {at(width)} {at(height)}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def swatch(style: int, *, dashed: bool = False, marker: bool = True) -> str:
    """A line's sample for a legend."""
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    point = ""
    if marker:
        shape = _MARKERS[style % len(_MARKERS)]
        point = f'<path class="point" transform="translate(14 7)" d="{shape}"/>'
    return (
        f'<svg class="swatch line s{style % _STYLES}" viewBox="0 0 28 14" aria-hidden="true">'
        f'<path class="line" d="M1 7H27"{dashes}/>{point}</svg>'
    )


def number(value: float, digits: int = 4) -> str:
    """A figure, or a dash where undefined."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference with its sign, or a dash where undefined; what rounds to nothing has none."""
    rounded = round(value, 4) if math.isfinite(value) else math.nan
    return "–" if math.isnan(rounded) else f"{rounded:+.4f}" if rounded else "0.0000"


def grid(figures: Sequence[str]) -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="figures">{"".join(figures)}</div>'


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values in [low, high], at most ``most`` + 1 of them."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def value_axis(label: str, values: Sequence[float], *, limit: float | None = 1.0) -> Axis:
    """An axis around finite values, with a little room, not beyond ``limit``."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    top = high + room if limit is None else min(high + room, max(limit, high))
    bottom = low - room if low < 0 or low - room >= 0 else 0.0
    ticks = nice_ticks(bottom, top)
    return Axis(label, bottom, top, [(tick, f"{tick:g}") for tick in ticks])


def frequency_axis(highs: Sequence[float]) -> Axis:
    """An axis of frequency bins, which lie at 0, 1, … and are named by their upper ends."""
    ticks = [(i, f"≤{high:g}") for i, high in enumerate(highs)]
    return Axis("minor-allele frequency in the panel", -0.4, len(highs) - 0.6, ticks)


def at(value: float) -> str:
    """A number as SVG has it, two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _xy(x: float, y: float) -> str:
    return f"{at(x)} {at(y)}"
