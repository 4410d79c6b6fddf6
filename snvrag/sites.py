"""Sites and regions: what a record is called, and which records a user asks for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError, UsageError


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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})", "give a text file") from error
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

    def chromosomes(self) -> list[tuple[str, int, int]]:
        """``(name, first row, one past the last row)`` of each chromosome, in file order."""
        if len(self) == 0:
            return []
        starts = np.flatnonzero(np.r_[True, self.chrom[1:] != self.chrom[:-1]])
        ends = np.r_[starts[1:], len(self)]
        return [(str(self.chrom[a]), int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
