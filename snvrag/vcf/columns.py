"""Sample columns of imputed records, compiled: text for VCF, thousandths for BCF.

Probabilities are 65,535ths and everything is told in thousandths. As 65,535 is odd, no value lies
in the middle of two thousandths, and integer arithmetic rounds exactly.
"""

from typing import Any

import numpy as np

from snvrag.compiling import compiled

SCALE = 65_535
_TEXTS = [f"{i / 1000:.3f}".rstrip("0").rstrip(".").encode() for i in range(2001)]
_WIDEST = 5
_DIGITS = np.array(_TEXTS, dtype=f"S{_WIDEST}").view(np.uint8).reshape(len(_TEXTS), _WIDEST)
_LENGTHS = np.array([len(text) for text in _TEXTS])
CELL_BYTES = 4 + 4 * (1 + _WIDEST)
"""A sample's column at most."""
HDS_BYTES = 2 * (1 + _WIDEST)
"""Its HDS at most."""
_TAB, _BAR, _COLON, _COMMA, _ZERO, _NEWLINE = (np.uint8(ord(c)) for c in "\t|:,0\n")
_HALF = SCALE // 2
_RUN = 128


_TILE = 64
_NO_NUMBER = np.uint32(0x7F800000)


@compiled()
def round_probabilities(probability: Any, bits: Any, rounded: Any) -> Any:
    """Round to 65,535ths; whether all are finite.

    Args:
        probability: float32 [T, L]; what lies outside of 0 to 1 is taken for the nearer of them.
        bits: the same as uint32: compiled code takes every float for a number.
        rounded: uint16 [L, T], filled.
    """
    n_targets, n_sites = probability.shape
    finite = True
    # In tiles, as one of the two is read or written across its rows.
    for begin in range(0, n_sites, _TILE):
        end = min(begin + _TILE, n_sites)
        for t in range(n_targets):
            for site in range(begin, end):
                finite &= (bits[t, site] & _NO_NUMBER) != _NO_NUMBER
                value = min(max(probability[t, site], np.float32(0.0)), np.float32(1.0))
                rounded[site, t] = np.uint16(np.float64(value) * SCALE + 0.5)
    return finite


@compiled()
def _thousandths(part: Any, whole: Any) -> Any:
    return (2000 * part + whole) // (2 * whole)


@compiled()
def _diploid(p: Any, q: Any) -> Any:
    """Thousandths of the dosage and of one and two ALT alleles; these leave no less than none."""
    het = _thousandths(p * (SCALE - q) + q * (SCALE - p), SCALE * SCALE)
    alt = _thousandths(p * q, SCALE * SCALE)
    return _thousandths(p + q, SCALE), het, min(alt, 1000 - het)


@compiled()
def _put(out: Any, at: Any, before: Any, thousandths: Any) -> Any:
    """Write a separator and a number; returns the place after it."""
    out[at] = before
    for i in range(_LENGTHS[thousandths]):
        out[at + 1 + i] = _DIGITS[thousandths, i]
    return at + 1 + _LENGTHS[thousandths]


@compiled()
def _cell(p: Any, q: Any, diploid: Any, hds: Any, out: Any, at: Any) -> Any:
    """Write a tab and one sample's column; returns the place after it."""
    out[at], out[at + 1] = _TAB, _ZERO + np.uint8(p > _HALF)
    at += 2
    if not diploid:
        dose = _thousandths(p, SCALE)
        at = _put(out, at, _COLON, dose)
        at = _put(out, at, _COLON, 1000 - dose)
        at = _put(out, at, _COMMA, dose)
        return _put(out, at, _COLON, dose) if hds else at
    out[at], out[at + 1] = _BAR, _ZERO + np.uint8(q > _HALF)
    dose, het, alt = _diploid(p, q)
    at = _put(out, at + 2, _COLON, dose)
    at = _put(out, at, _COLON, 1000 - het - alt)
    at = _put(out, at, _COMMA, het)
    at = _put(out, at, _COMMA, alt)
    if hds:
        at = _put(out, at, _COLON, _thousandths(p, SCALE))
        at = _put(out, at, _COMMA, _thousandths(q, SCALE))
    return at


@compiled()
def write_text(
    probability: Any, ploidy: Any, hds: Any, fixed: Any, ends: Any, out: Any, offsets: Any
) -> None:
    """Write n records of H haplotypes as lines of text.

    Args:
        probability: uint16 [n, H], P(ALT) of each haplotype in 65,535ths.
        ploidy: int64 [samples], 1 or 2; adds up to H.
        hds: whether to write HDS too.
        fixed: uint8, the fixed columns of all records, FORMAT included, without a tab behind.
        ends: int64 [n], where those of each record end.
        out: uint8, filled.
        offsets: int64 [n + 1], filled: where in ``out`` each record begins and the last ends.
    """
    n_samples = len(ploidy)
    # Most samples carry nothing at a rare site: their columns are copied by the run.
    cell = np.empty(CELL_BYTES + HDS_BYTES, dtype=np.uint8)
    width = _cell(0, 0, True, hds, cell, 0)
    nothing = np.empty(_RUN * width, dtype=np.uint8)
    for i in range(len(nothing)):
        nothing[i] = cell[i % width]
    at = read = 0
    for site in range(len(probability)):
        offsets[site] = at
        for i in range(read, ends[site]):
            out[at + i - read] = fixed[i]
        at += ends[site] - read
        read = ends[site]
        row = probability[site]
        sample = column = 0
        while sample < n_samples:
            begin = sample
            while (
                sample < n_samples
                and sample - begin < _RUN
                and ploidy[sample] == 2
                and row[column] == 0
                and row[column + 1] == 0
            ):
                sample += 1
                column += 2
            if sample > begin:
                n_bytes = (sample - begin) * width
                out[at : at + n_bytes] = nothing[:n_bytes]
                at += n_bytes
                continue
            ways = ploidy[sample]
            p, q = np.int64(row[column]), np.int64(row[column + ways - 1])
            at = _cell(p, q, ways == 2, hds, out, at)
            sample += 1
            column += ways
        out[at] = _NEWLINE
        at += 1
    offsets[len(probability)] = at


@compiled()
def fill_thousandths(probability: Any, first: Any, diploid: Any, filled: Any) -> None:
    """Thousandths of P(ALT) of either haplotype, of the dosage and of 0, 1 and 2 ALT alleles.

    Args:
        probability: uint16 [n, H], in 65,535ths.
        first: int64 [samples], each sample's first haplotype.
        diploid: bool [samples].
        filled: int16 [6, n, samples]; what a haploid sample has not is left.
    """
    for site in range(len(probability)):
        for sample in range(len(first)):
            p = np.int64(probability[site, first[sample]])
            dose = _thousandths(p, SCALE)
            filled[0, site, sample] = dose
            if diploid[sample]:
                q = np.int64(probability[site, first[sample] + 1])
                filled[1, site, sample] = _thousandths(q, SCALE)
                dose, het, alt = _diploid(p, q)
                filled[5, site, sample] = alt
            else:
                het, alt = dose, 0
            filled[2, site, sample] = dose
            filled[3, site, sample] = 1000 - het - alt
            filled[4, site, sample] = het
