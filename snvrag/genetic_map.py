"""Genetic maps in the forms that PLINK, SHAPEIT/GLIMPSE, Eagle and Minimac4 read."""

import gzip
import hashlib
import io
import itertools
import math
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.errors import InputError
from snvrag.provenance import check_regular
from snvrag.sites import plain_chromosome

CM_PER_MB = 1.0
_PLINK_COLUMNS = 4
# Eagle's map of the whole genome has 3.3 million lines and more than 100 MB.
_MAX_BYTES = 256 * 2**20
_MAX_COMPRESSED = 64 * 2**20
_MAX_LINES = 1 << 24
_MAX_LINE = 1 << 16
_MAX_POSITION = 1 << 40
_FORMS = "PLINK 'chr id cM bp', SHAPEIT 'pos chr cM', Eagle with a header, Minimac4 '#chrom pos cM'"


@dataclass(frozen=True, slots=True)
class GeneticMap:
    """Points of a map by chromosome: positions int64 (bp) and float64 cM, both not decreasing."""

    points: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
    source: str

    @classmethod
    def read(cls, path: Path) -> "GeneticMap":
        """Read a map; the form is recognised by its header and number of columns.

        Raises:
            InputError: unreadable, in no known form, or not sorted; names the line.
        """
        rows = ((n, line.split()) for n, line in _lines(path) if line.strip())
        first = next(rows, None)
        if first is None:
            raise InputError(f"{path}: is empty", f"give a map as {_FORMS}")
        chrom, pos, cm, has_header = _columns(path, first[1])
        found: dict[str, tuple[array[int], array[float]]] = {}
        for number, fields in rows if has_header else itertools.chain([first], rows):
            try:
                if len(fields) != len(first[1]):
                    raise ValueError("another number of columns")
                name = plain_chromosome(fields[chrom]) if chrom >= 0 else ""
                point = (int(fields[pos]), float(fields[cm]))
            except (ValueError, IndexError) as error:
                raise InputError(
                    f"{path}, line {number}: {' '.join(fields)!r} is no point of a map",
                    f"known forms: {_FORMS}",
                ) from error
            own = found.setdefault(name, (array("q"), array("d")))
            if not (math.isfinite(point[1]) and abs(point[0]) < _MAX_POSITION) or (
                own[0] and (point[0] < own[0][-1] or point[1] < own[1][-1])
            ):
                raise InputError(
                    f"{path}, line {number}: position or cM is smaller than in the line before",
                    "sort the map by position",
                )
            own[0].append(point[0])
            own[1].append(point[1])
        points = {
            name: (np.array(bp, dtype=np.int64), np.array(cms, dtype=np.float64))
            for name, (bp, cms) in found.items()
        }
        return cls(points, str(path))

    @classmethod
    def uniform(cls) -> "GeneticMap":
        """1 cM per Mb everywhere, which stands in where there is no map."""
        return cls({}, "none: 1 cM per Mb")

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the points, equal for the same map in another form or file."""
        digest = hashlib.sha256()
        for name in sorted(self.points):
            positions, cm = self.points[name]
            digest.update(name.encode() + positions.tobytes() + cm.tobytes())
        return digest.hexdigest()

    def along(
        self, chromosomes: Sequence[tuple[str, int]], positions: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """cM of the sites of several chromosomes, ``(name, number of sites)`` each: float64.

        Starts anew with each chromosome.

        Raises:
            InputError: the map lacks one of them.
        """
        parts, start = [], 0
        for name, n_sites in chromosomes:
            parts.append(self.centimorgans(name, positions[start : start + n_sites]))
            start += n_sites
        return np.concatenate(parts)

    def centimorgans(self, chrom: str, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """cM at ``positions``: float64, not decreasing for sorted positions.

        Between points linear; beyond the ends 1 cM per Mb.

        Raises:
            InputError: the map has other chromosomes only.
        """
        bp = np.asarray(positions, dtype=np.float64)
        rate = CM_PER_MB / 1e6
        if not self.points:
            return bp * rate
        own = self.points.get(plain_chromosome(chrom), self.points.get(""))
        if own is None:
            raise InputError(
                f"{self.source}: has no chromosome {chrom}",
                f"it has {', '.join(self.points)}; give the map of the imputed chromosome",
            )
        known_bp, known_cm = own
        cm = np.interp(bp, known_bp, known_cm)
        before, after = bp < known_bp[0], bp > known_bp[-1]
        cm[before] -= (known_bp[0] - bp[before]) * rate
        cm[after] += (bp[after] - known_bp[-1]) * rate
        return np.asarray(cm, dtype=np.float64)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a map, which may be compressed with gzip, as SHAPEIT's and Eagle's come."""
    number = size = 0
    try:
        check_regular(path)
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            # Python's gzip passes over zeros behind the data byte by byte.
            if path.stat().st_size > (_MAX_COMPRESSED if compressed else _MAX_BYTES):
                raise _too_large(path)
            data = io.BufferedReader(gzip.GzipFile(fileobj=file)) if compressed else file
            text = io.TextIOWrapper(data, encoding="utf-8")
            while line := text.readline(_MAX_LINE):
                number, size = number + 1, size + len(line)
                if len(line) == _MAX_LINE:
                    raise InputError(f"{path}, line {number}: is longer than the lines of any map")
                if size > _MAX_BYTES or number > _MAX_LINES:
                    raise _too_large(path)
                yield number, line
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "damaged gzip"
        raise InputError(
            f"{path}: the genetic map cannot be read ({reason})", "check the path of the file"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text", f"give a map as {_FORMS}") from error


def _too_large(path: Path) -> InputError:
    return InputError(
        f"{path}: holds more than the {_MAX_BYTES:,} bytes ({_MAX_COMPRESSED:,} compressed) or "
        f"{_MAX_LINES:,} lines of any map",
        "give the map of the chromosomes of the panel only",
    )


def _columns(path: Path, first: list[str]) -> tuple[int, int, int, bool]:
    """Columns of chromosome (-1: none), position and cM, and whether the first line is a header."""
    names = [name.lower().lstrip("#") for name in first]

    def place(*wanted: str) -> int:
        return next((i for i, name in enumerate(names) if name.startswith(wanted)), -1)

    if not _is_number(first[-1]):
        pos, cm = place("pos", "bp"), place("genetic_map", "cm", "gen")
        if pos < 0 or cm < 0:
            raise InputError(f"{path}: header {' '.join(first)!r} is not known", f"forms: {_FORMS}")
        return place("chr"), pos, cm, True
    if len(first) == _PLINK_COLUMNS:
        return 0, 3, 2, False
    if len(first) == _PLINK_COLUMNS - 1:
        return 0, 1, 2, False
    raise InputError(
        f"{path}: {len(first)} columns without a header, not 3 or 4", f"forms: {_FORMS}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
