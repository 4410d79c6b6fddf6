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
    # Most samples carry nothing at a rare site, and so most columns are one of these two.
    nothing = np.empty((3, CELL_BYTES + HDS_BYTES), dtype=np.uint8)
    width = np.zeros(3, dtype=np.int64)
    width[1] = _cell(0, 0, False, hds, nothing[1], 0)
    width[2] = _cell(0, 0, True, hds, nothing[2], 0)
    at = read = 0
    for site in range(len(probability)):
        offsets[site] = at
        for i in range(read, ends[site]):
            out[at + i - read] = fixed[i]
        at += ends[site] - read
        read = ends[site]
        column = 0
        row = probability[site]
        for ways in ploidy:
            p, q = np.int64(row[column]), np.int64(row[column + ways - 1])
            column += ways
            if p == 0 and q == 0:
                for i in range(width[ways]):
                    out[at + i] = nothing[ways, i]
                at += width[ways]
            else:
                at = _cell(p, q, ways == 2, hds, out, at)
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
