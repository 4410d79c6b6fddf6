"""What a file says by another reader: Python's gzip and split for VCF, bcftools for BCF, h5py."""

import gzip
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - h5py reads Blosc with it
import numpy as np
from safetensors.numpy import load_file

Rows = list[tuple[Any, ...]]


class UnreadableError(Exception):
    """The other reader refuses the file."""


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        return data.decode(errors="surrogateescape")
    except (OSError, EOFError, ValueError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise UnreadableError(str(error)) from error


def _vcf_lines(path: Path) -> list[list[str]]:
    """Header's last line and records as fields."""
    lines = [line.removesuffix("\r") for line in _text(path).split("\n")]
    rows = [line.split("\t") for line in lines if line and not line.startswith("##")]
    if not rows or not rows[0][0] == "#CHROM":
        raise UnreadableError("no #CHROM")
    if any(len(row) != len(rows[0]) for row in rows):
        raise UnreadableError("lines of other lengths")
    return rows


def _bcf_lines(path: Path) -> list[list[str]]:
    done = subprocess.run(
        ["bcftools", "view", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise UnreadableError(done.stderr.strip())
    return [x.split("\t") for x in done.stdout.splitlines() if not x.startswith("##")]


def genotypes(path: Path) -> tuple[list[str], Rows]:
    """Sample IDs, and CHROM, POS, REF, ALT and the GT column of biallelic SNVs, each site once."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    is_bcf = compressed and path.name.endswith(".bcf")
    rows = _bcf_lines(path) if is_bcf else _vcf_lines(path)
    found: dict[tuple[str, int, str, str], tuple[str, ...]] = {}
    for row in rows[1:]:
        chrom, pos, _, ref, alt = row[:5]
        if len(ref) == len(alt) == 1 and ref in "ACGTNacgtn" and alt in "ACGTNacgtn":
            at = row[8].split(":").index("GT")
            # 00|1 is 0|1.
            calls = tuple(re.sub(r"\b0+(?=\d)", "", cell.split(":")[at]) for cell in row[9:])
            found.setdefault((chrom, int(pos), ref, alt), calls)
    return rows[0][9:], [(*site, *calls) for site, calls in found.items()]


def panel_genotypes(path: Path) -> tuple[list[str], Rows]:
    """The same of a panel file."""
    with h5py.File(path, "r") as file:
        gt = file["calldata/GT"][...]
        names = [file[f"variants/{n}"][...] for n in ("CHROM", "POS", "REF", "ALT")]
        samples = [name.decode() for name in file["samples"][...]]
    rows = []
    for i, calls in enumerate(gt.tolist()):
        chrom, pos, ref, alt = (column[i] for column in names)
        cells = ["|".join(str(a) for a in pair if a != -2) for pair in calls]
        rows.append((chrom.decode(), int(pos), ref.decode(), alt.decode(), *cells))
    return samples, rows


def dosages(path: Path) -> Rows:
    """CHROM, POS, REF, ALT and the DS of records with one ALT, to three decimals."""
    rows = _bcf_lines(path) if path.name.endswith(".bcf") else _vcf_lines(path)
    found = []
    for row in rows[1:]:
        if row[4] == "." or "," in row[4]:
            continue
        form = row[8].split(":")
        cells = [cell.split(":")[form.index("DS" if "DS" in form else "GT")] for cell in row[9:]]
        values = cells if "DS" in form else [sum(map(int, cell.split("|"))) for cell in cells]
        found.append((row[0], int(row[1]), row[3], row[4], *(f"{float(v):.3f}" for v in values)))
    return found


def columns(path: Path) -> tuple[list[str], Rows]:
    """Sample IDs, and CHROM, POS, REF, ALT, FORMAT and the samples' columns, of all records."""
    rows = _bcf_lines(path) if path.name.endswith(".bcf") else _vcf_lines(path)
    return rows[0][9:], [(row[0], row[1], *row[3:5], *row[8:]) for row in rows[1:]]


def map_points(path: Path) -> list[tuple[str, int, float]]:
    """Points of a PLINK map, sorted as they must be."""
    rows = [line.split() for line in _text(path).splitlines() if line.split()]
    try:
        points = [(row[0], int(row[3]), float(row[2])) for row in rows if len(row) >= 4]
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    if len(points) != len(rows) or not all(np.isfinite(cm) for _, _, cm in points):
        raise UnreadableError("a line is no point")
    return points


def weights(path: Path) -> dict[str, np.ndarray]:
    """Tensors by name."""
    return load_file(path)


def json_content(path: Path) -> Any:
    """A JSON file's content."""
    return json.loads(path.read_text(encoding="utf-8"))
