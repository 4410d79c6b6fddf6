"""Sites and regions: what a record is called, and which records a user asks for."""

import hashlib
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError, UsageError
from snvrag.provenance import read_lines


@dataclass(frozen=True, slots=True)
class Region:
    """``start`` to ``end`` of ``chrom``, 1-based and inclusive; ``end`` None is open."""

    chrom: str
    start: int = 1
    end: int | None = None

    def __str__(self) -> str:
        if self.end is None:
            return self.chrom if self.start == 1 else f"{self.chrom}:{self.start}-"
        return f"{self.chrom}:{self.start}-{self.end}"

    def contains(self, chrom: str, position: int) -> bool:
        """Whether a record that starts at ``position`` lies in the region."""
        return (
            chrom == self.chrom
            and self.start <= position
            and (self.end is None or position <= self.end)
        )


def parse_regions(text: str) -> list[Region]:
    """Read ``chr``, ``chr:pos``, ``chr:beg-end``, ``chr:beg-``; comma-separated, as in bcftools.

    Raises:
        UsageError: a part is none of these.
    """
    return [_parse_region(part.strip(), text) for part in text.split(",")]


def _parse_region(part: str, text: str) -> Region:
    chrom, colon, span = part.rpartition(":")
    if not colon:
        chrom, span = part, ""
    first, dash, last = span.partition("-")
    numbers_fine = (not span) or (
        first.isdecimal() and int(first) >= 1 and (not last or last.isdecimal())
    )
    if not chrom or (colon and not span) or not numbers_fine:
        raise UsageError(
            f"--region {text}: {part!r} is not a region", "write chr20, chr20:5000 or chr20:1-5000"
        )
    if not span:
        return Region(chrom)
    start = int(first)
    end = (int(last) if last else None) if dash else start
    if end is not None and end < start:
        raise UsageError(f"--region {text}: {part!r} ends before it starts", "swap the two numbers")
    return Region(chrom, start, end)


def read_regions_file(path: Path) -> list[Region]:
    """Read regions from a file: ``CHROM [BEG [END]]``, 1-based, or 0-based half-open if ``.bed``.

    Raises:
        InputError: the file is unreadable, has a malformed line, or lists no region.
    """
    bed = path.name.endswith(".bed")
    lines = read_lines(path)
    regions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split()
        try:
            start = int(fields[1]) + bed if len(fields) > 1 else 1
            end = int(fields[2]) if len(fields) > 2 else (start if len(fields) > 1 else None)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: {line.strip()!r} is not a region",
                "write CHROM, BEG and END, separated by tabs",
            ) from error
        regions.append(Region(fields[0], start, end))
    if not regions:
        raise InputError(f"{path}: lists no region", "write one region a line: CHROM BEG END")
    return regions


@dataclass(frozen=True, slots=True)
class SiteTable:
    """Biallelic sites in file order; all arrays have one length.

    ``pos`` is int64, 1-based; the others are arrays of ``str``.
    """

    chrom: NDArray[np.str_]
    pos: NDArray[np.int64]
    id: NDArray[np.str_]
    ref: NDArray[np.str_]
    alt: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.pos)

    def key(self, row: int) -> str:
        """``CHROM:POS:REF:ALT`` of one site."""
        return f"{self.chrom[row]}:{self.pos[row]}:{self.ref[row]}:{self.alt[row]}"

    def digest(self) -> str:
        """Hex SHA-256 of CHROM, POS, REF and ALT of all sites."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pos, dtype="<i8").tobytes())
        for column in (self.chrom, self.ref, self.alt):
            digest.update("\n".join(column.tolist()).encode() + b"\0")
        return digest.hexdigest()

    def take(self, rows: NDArray[np.integer]) -> "SiteTable":
        """The sites of some rows, in their order."""
        columns = (self.chrom, self.pos, self.id, self.ref, self.alt)
        return SiteTable(*(column[rows] for column in columns))

    def chromosomes(self) -> list[tuple[str, int, int]]:
        """``(name, first row, one past the last row)`` of each chromosome, in file order."""
        if len(self) == 0:
            return []
        starts = np.flatnonzero(np.r_[True, self.chrom[1:] != self.chrom[:-1]])
        ends = np.r_[starts[1:], len(self)]
        return [(str(self.chrom[a]), int(a), int(b)) for a, b in zip(starts, ends, strict=True)]


class SiteFinder:
    """Finds records in a sorted site table, by CHROM (with or without ``chr``), POS, REF, ALT."""

    def __init__(self, sites: SiteTable) -> None:
        self.n_sites = len(sites)
        self._sites = sites
        self._spans = {plain_chromosome(name): (a, b) for name, a, b in sites.chromosomes()}

    def find(self, chrom: str, pos: int, ref: str, alt: str) -> tuple[int, int | None]:
        """``(first, row)``: the first row of the record's position, and its own.

        Where the table lacks the position, ``first`` is the row it would be at; of an unknown
        chromosome it is 0. ``row`` is None where the table lacks the record.
        """
        a, b = self._spans.get(plain_chromosome(chrom), (0, 0))
        first = bisect_left(self._sites.pos, pos, a, b)
        row = first
        while row < b and self._sites.pos[row] == pos:
            if self._sites.ref[row] == ref and self._sites.alt[row] == alt:
                return first, row
            row += 1
        return first, None


_COMPLEMENT = str.maketrans("ACGTacgt", "TGCATGCA")
NOT_IN_PANEL = "position not in the panel"
AMBIGUOUS = "swapped and strand-ambiguous (A/T or C/G)"
STRAND = "alleles of the other strand"
MISMATCH = "other alleles than the panel"
TAKEN = "panel site matched by an earlier record"


@dataclass(frozen=True, slots=True)
class SiteMatch:
    """Which target sites are which panel sites; m matched."""

    panel_rows: NDArray[np.int64]
    """int64 [m], increasing."""
    target_rows: NDArray[np.int64]
    """int64 [m]."""
    flipped: NDArray[np.bool_]
    """bool [m]: REF and ALT are swapped between target and panel."""
    excluded: tuple[tuple[int, str], ...]
    """``(target row, reason)`` of each target site that was left out."""


def plain_chromosome(name: str) -> str:
    """A chromosome's name without ``chr``: ``chr20`` and ``20`` are one."""
    return name[3:] if name.lower().startswith("chr") and len(name) > len("chr") else name


def match_sites(panel: SiteTable, target: SiteTable) -> SiteMatch:
    """Match by CHROM (with or without ``chr``), POS, REF and ALT.

    Swapped REF and ALT are matched and marked; where that could as well be the other strand
    (A/T, C/G), and where alleles differ otherwise, the site is excluded with the reason.
    """
    by_place: dict[tuple[str, int], list[int]] = {}
    wanted = set(target.pos.tolist())
    for row in np.flatnonzero(np.isin(panel.pos, np.fromiter(wanted, dtype=np.int64))).tolist():
        place = (plain_chromosome(str(panel.chrom[row])), int(panel.pos[row]))
        by_place.setdefault(place, []).append(row)
    found: dict[int, tuple[int, bool]] = {}
    excluded: list[tuple[int, str]] = []
    for row in range(len(target)):
        place = (plain_chromosome(str(target.chrom[row])), int(target.pos[row]))
        candidates = [(str(panel.ref[i]), str(panel.alt[i]), i) for i in by_place.get(place, [])]
        match, reason = _match_alleles(str(target.ref[row]), str(target.alt[row]), candidates)
        if match is not None and match[0] in found:
            match, reason = None, TAKEN
        if match is None:
            excluded.append((row, reason))
        else:
            found[match[0]] = (row, match[1])
    rows = sorted(found)
    return SiteMatch(
        panel_rows=np.array(rows, dtype=np.int64),
        target_rows=np.array([found[r][0] for r in rows], dtype=np.int64),
        flipped=np.array([found[r][1] for r in rows], dtype=bool),
        excluded=tuple(excluded),
    )


def _match_alleles(
    ref: str, alt: str, candidates: list[tuple[str, str, int]]
) -> tuple[tuple[int, bool] | None, str]:
    if not candidates:
        return None, NOT_IN_PANEL
    for panel_ref, panel_alt, row in candidates:
        if (ref, alt) == (panel_ref, panel_alt):
            return (row, False), ""
    other = (ref.translate(_COMPLEMENT), alt.translate(_COMPLEMENT))
    for panel_ref, panel_alt, row in candidates:
        if (alt, ref) == (panel_ref, panel_alt):
            return (None, AMBIGUOUS) if other == (alt, ref) else ((row, True), "")
    if any(other in ((r, a), (a, r)) for r, a, _ in candidates):
        return None, STRAND
    return None, MISMATCH


_MAX_POSITION_DIGITS = 10


def read_site_list(path: Path) -> SiteTable:
    """Sites of a text file, CHROM and POS in each line; further columns and ``#`` lines are passed
    over. IDs and alleles are empty.

    Raises:
        InputError: the file is unreadable, lists no site, or has a malformed line.
    """
    chrom, pos = [], []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if not fields or line.startswith("#"):
            continue
        digits = fields[1] if len(fields) > 1 else ""
        if not digits.isdecimal() or len(digits) > _MAX_POSITION_DIGITS:
            raise InputError(
                f"{path}, line {number}: {line.strip()!r} is no site", "write CHROM and POS"
            )
        chrom.append(fields[0])
        pos.append(int(digits))
    if not pos:
        raise InputError(f"{path}: lists no site", "write CHROM and POS of each site")
    nothing = np.full(len(pos), "")
    return SiteTable(
        np.array(chrom, dtype=str), np.array(pos, dtype=np.int64), nothing, nothing, nothing
    )


def rows_listed(panel: SiteTable, listed: SiteTable) -> NDArray[np.bool_]:
    """Which panel sites a list names: bool [panel sites].

    They have the same CHROM (with or without ``chr``) and POS and, where the list has alleles, the
    same two alleles in either order.
    """
    wanted = np.isin(listed.pos, panel.pos)
    columns = (listed.chrom[wanted], listed.pos[wanted], listed.ref[wanted], listed.alt[wanted])
    alleles: dict[tuple[str, int], list[set[str]]] = {}
    for chrom, pos, ref, alt in zip(*(column.tolist() for column in columns), strict=True):
        alleles.setdefault((plain_chromosome(chrom), pos), []).append({ref, alt})
    found = np.zeros(len(panel), dtype=bool)
    for row in np.flatnonzero(np.isin(panel.pos, listed.pos)).tolist():
        place = (plain_chromosome(str(panel.chrom[row])), int(panel.pos[row]))
        own = {str(panel.ref[row]), str(panel.alt[row])}
        found[row] = any("" in pair or pair == own for pair in alleles.get(place, ()))
    return found
