"""The lines of a VCF's body, read by a compiled loop where they are of the plain kind.

What is read here is a strict part of what VCF allows, such that htslib reads it too and to the same
values. At anything else the loop stops with :data:`DOUBT`, and the caller leaves the file to
htslib.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.compiling import compiled

FINE, DOUBT, OTHER_FORMAT = 0, 1, 2
INTEGER, FLOAT, TEXT = 1, 2, 3
"""Kinds of FORMAT fields behind GT."""
CHROM, POS, ID, REF, ALT, QUAL, FILTER, INFO, FORMAT, N_MARKS = range(10)
"""Columns of ``marks``: where a field begins; the next one begins behind the tab that ends it."""
AC, AN, HOM_REF, HET, PEOPLE, BAD, MAX_ALLELE, HAPLOID, N_COUNTS = range(9)
"""Columns of ``counts``."""
IS_SNV, SAME_CHROM = 1, 2
"""Bits of ``flags``: one base each in REF and ALT; CHROM is that of the line before."""

_TAB, _NEWLINE, _DOT, _COLON, _COMMA, _SEMICOLON, _EQUALS, _MINUS = (ord(c) for c in "\t\n.:,;=-")
_BAR, _SLASH, _ZERO, _NINE, _PLUS, _E = (ord(c) for c in "|/09+E")
_ANY, _NAME, _KEY, _NUMBER, _FILTER, _VALUE, _BASE, _CELL = (1 << i for i in range(8))
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"


def _table() -> NDArray[np.uint8]:
    """Which classes each byte belongs to: uint8 [256]; tab and newline are of none."""
    printable = "".join(chr(i) for i in range(33, 127))
    classes = {
        _ANY: printable,
        _NAME: _LETTERS + ".-",
        _KEY: _LETTERS + ".",
        _NUMBER: "0123456789.eE+-",
        _FILTER: _LETTERS + ".-",
        _VALUE: printable.replace(";", "") + " " + "".join(chr(i) for i in range(128, 256)),
        _BASE: "ACGTNacgtn",
        _CELL: printable.replace(":", ""),
    }
    table = np.zeros(256, dtype=np.uint8)
    for bit, members in classes.items():
        for character in members:
            table[ord(character)] |= bit
    return table


_CLASSES = _table()
# Four bytes of a cell such as 0|1 and its tab as one little-endian number, and the bits that are
# the same in all such cells.
_CELL_BITS = np.uint32(0xFFFEFFFE)
_CELL_WORD = np.uint32(ord("0") | ord("|") << 8 | ord("0") << 16 | ord("\t") << 24)
_LAST_WORD = np.uint32(ord("0") | ord("|") << 8 | ord("0") << 16 | ord("\n") << 24)
_ONE, _EIGHT, _SIXTEEN = np.uint32(1), np.uint32(8), np.uint32(16)
_MAX_DIGITS = 9
_MAX_EXPONENT_DIGITS = 2


@compiled(nogil=True)
def _run(text: Any, i: int, bit: int) -> int:
    """Where a run of characters of one class ends that begins at i."""
    while _CLASSES[text[i]] & bit:
        i += 1
    return i


@compiled(nogil=True)
def _parts(text: Any, i: int, bit: int, keys: bool) -> int:
    """Where a list of parts, separated by semicolons and none of them empty, ends; or -1."""
    while True:
        end = _run(text, i, bit)
        if end == i:
            return -1
        i = end
        if keys and text[i] == _EQUALS:
            end = _run(text, i + 1, _VALUE)
            if end == i + 1:
                return -1
            i = end
        if text[i] != _SEMICOLON:
            return i
        i += 1


@compiled(nogil=True)
def _digits(text: Any, i: int, most: int) -> int:
    """Where a run of 1 to ``most`` digits ends; or -1."""
    end = i
    while _ZERO <= text[end] <= _NINE:
        end += 1
    return end if 0 < end - i <= most else -1


@compiled(nogil=True)
def _values(text: Any, i: int, kind: int) -> int:
    """Where the values of one FORMAT field of a sample end; or -1."""
    if kind == TEXT:
        end = _run(text, i, _CELL)
        return end if end > i else -1
    while True:
        if text[i] == _DOT:
            i += 1
        else:
            if text[i] == _MINUS:
                i += 1
            i = _digits(text, i, _MAX_DIGITS)
            if i < 0:
                return -1
            if kind == FLOAT and text[i] == _DOT:
                i = _digits(text, i + 1, 2 * _MAX_DIGITS)
                if i < 0:
                    return -1
            if kind == FLOAT and (text[i] == _E or text[i] == _E + 32):
                i += 1
                if text[i] == _MINUS or text[i] == _PLUS:
                    i += 1
                i = _digits(text, i, _MAX_EXPONENT_DIGITS)
                if i < 0:
                    return -1
        if text[i] != _COMMA:
            return i
        i += 1


@compiled(nogil=True)
def _fixed_cells(text: Any, first: int, row: int, alleles: Any, counts: Any) -> bool:
    """Read the cells of a record in which each is two digits 0 or 1 and a bar; False if not."""
    n = alleles.shape[1]
    words = text[first : first + 4 * n].view(np.uint32)
    pairs = alleles[row].view(np.uint16)
    wrong = (words[n - 1] ^ _LAST_WORD) & _CELL_BITS
    ac = het = 0
    for i in range(n):
        word = words[i]
        if i < n - 1:
            wrong |= (word ^ _CELL_WORD) & _CELL_BITS
        a = word & _ONE
        b = (word >> _SIXTEEN) & _ONE
        ac += a + b
        het += a ^ b
        pairs[i, 0] = np.uint16(a | (b << _EIGHT))
    counts[row, AC], counts[row, AN], counts[row, HET], counts[row, PEOPLE] = ac, 2 * n, het, n
    counts[row, HOM_REF] = n - het - (ac - het) // 2
    counts[row, BAD], counts[row, MAX_ALLELE], counts[row, HAPLOID] = 0, 1, 0
    return bool(wrong == 0)


@compiled(nogil=True)
def _allele_end(text: Any, i: int) -> int:
    """Where the allele at i ends; or -1."""
    if text[i] == _DOT:
        return i + 1
    end = _digits(text, i, 3)
    return -1 if text[i] == _ZERO and end != i + 1 else end


@compiled(nogil=True)
def _allele(text: Any, i: int, end: int) -> int:
    """-1 if missing, 2 for any above 1."""
    if text[i] == _DOT:
        return -1
    return int(text[i]) - _ZERO if text[i] <= _ZERO + 1 and end == i + 1 else 2


@compiled(nogil=True)
def _cells(
    text: Any, i: int, row: int, kinds: Any, slots: Any, is_target: bool, alleles: Any, counts: Any
) -> int:
    """Read the cells of any record, GT first; returns where the next line begins, or -1."""
    ac = an = hom_ref = het = people = n_bad = n_haploid = most = 0
    last = len(slots) - 1
    for sample in range(len(slots)):
        end = _allele_end(text, i)
        if end < 0:
            return -1
        first, second, unphased = _allele(text, i, end), -2, False
        if text[end] == _BAR or text[end] == _SLASH:
            unphased = text[end] == _SLASH
            i = end + 1
            end = _allele_end(text, i)
            if end < 0:
                return -1
            second = _allele(text, i, end)
        i = end
        field = 0
        while text[i] == _COLON:
            if field == len(kinds):
                return -1
            i = _values(text, i + 1, kinds[field])
            if i < 0:
                return -1
            field += 1
        if text[i] != (_TAB if sample < last else _NEWLINE):
            return -1
        i += 1
        slot = slots[sample]
        if slot < 0:
            continue
        alleles[row, slot, 0], alleles[row, slot, 1] = first, second
        if is_target:
            # Order means nothing where both alleles are equal or one is unknown.
            bad = unphased and first >= 0 and second >= 0 and first != second
        else:
            bad = unphased or first == -1 or second == -1
        called = first >= 0 or second >= 0
        n_bad += bad
        n_haploid += second == -2
        most = max(most, first, second)
        ac += (first == 1) + (second == 1)
        an += (first >= 0) + (second >= 0)
        people += called
        hom_ref += called and first != 1 and second != 1
        het += first >= 0 and second >= 0 and (first == 1) != (second == 1)
    counts[row, AC], counts[row, AN], counts[row, HET], counts[row, PEOPLE] = ac, an, het, people
    counts[row, HOM_REF], counts[row, BAD] = hom_ref, n_bad
    counts[row, MAX_ALLELE], counts[row, HAPLOID] = most, n_haploid
    return i


@compiled(nogil=True)
def _same(text: Any, a: int, other: Any, b: int, width: int) -> bool:
    """Whether ``width`` bytes from a of one text are those from b of another one on."""
    same = True
    for k in range(width):
        same &= text[a + k] == other[b + k]
    return same


@compiled(nogil=True)
def _field_end(text: Any, i: int, column: int) -> int:
    """Where a field before FORMAT ends; i or -1 if nothing fit is there."""
    if column == POS:
        end = _digits(text, i, _MAX_DIGITS)
    elif column == FILTER:
        end = _parts(text, i, _FILTER, False)
    elif column == INFO:
        end = i + 1 if text[i] == _DOT else _parts(text, i, _KEY, True)
    elif column == CHROM:
        end = _run(text, i, _NAME)
    else:
        end = _run(text, i, _NUMBER if column == QUAL else _ANY)
    return int(end)


@compiled(nogil=True)
def _site(text: Any, start: int, row: int, marks: Any, positions: Any, flags: Any) -> int:
    """Read the fields before FORMAT of a line; returns where FORMAT begins, or -1."""
    i = start
    for column in range(FORMAT):
        marks[row, column] = i
        end = _field_end(text, i, column)
        if end <= i or text[end] != _TAB:
            return -1
        i = end + 1
    marks[row, FORMAT] = i
    position = 0
    for k in range(marks[row, POS], marks[row, ID] - 1):
        position = 10 * position + text[k] - _ZERO
    if position == 0:
        return -1
    positions[row] = position
    ref, alt = marks[row, REF], marks[row, ALT]
    flag = 0
    if alt - ref == 2 and marks[row, QUAL] - alt == 2:
        flag = IS_SNV * ((_CLASSES[text[ref]] & _CLASSES[text[alt]] & _BASE) != 0)
    if row > 0:
        before, length = marks[row - 1, CHROM], marks[row, POS] - start
        if marks[row - 1, POS] - before == length and _same(text, before, text, start, length):
            flag |= SAME_CHROM
    flags[row] = flag
    return i


@compiled(nogil=True)
def decode(
    text: Any,
    start: int,
    form: Any,
    kinds: Any,
    slots: Any,
    in_order: bool,
    is_target: bool,
    alleles: Any,
    marks: Any,
    positions: Any,
    flags: Any,
    counts: Any,
) -> tuple[int, int, int]:
    """Read up to k whole lines of a VCF's body.

    Args:
        text: uint8 [bytes], ends with a newline.
        start: where the first line begins.
        form: uint8, the FORMAT that ``kinds`` belongs to; it begins with GT.
        kinds: uint8, the kind of each field behind GT.
        slots: int32 [samples in the file], the row of ``alleles`` for each; -1 for none.
        in_order: all samples are wanted, in the file's order.
        is_target: unphased calls matter only where both alleles are known and differ, and missing
            ones do not.
        alleles: int8 [k, samples, 2], written: 0, 1, 2 for any higher one, -1 missing, -2 no
            second haplotype.
        marks: int64 [k, N_MARKS], written: where CHROM to FORMAT begin.
        positions: int64 [k], written: POS.
        flags: uint8 [k], written: :data:`IS_SNV`, :data:`SAME_CHROM`.
        counts: int64 [k, N_COUNTS], written: as :class:`SiteCounts`, and samples with a call that
            a panel (or target) may not have, the highest allele, and haploid samples.

    Returns:
        Lines read, where the next one begins, and :data:`FINE`, :data:`DOUBT` or, where that line
        has another FORMAT than ``form``, :data:`OTHER_FORMAT`.
    """
    width = 4 * len(slots)
    for row in range(len(alleles)):
        if start == len(text):
            return row, start, FINE
        i = _site(text, start, row, marks, positions, flags)
        if i < 0:
            return row, start, DOUBT
        end = i + len(form)
        if end >= len(text) or text[end] != _TAB or not _same(text, i, form, 0, len(form)):
            return row, start, OTHER_FORMAT
        i, end = end + 1, end + 1 + width
        if not (
            in_order
            and len(kinds) == 0
            and end <= len(text)
            and text[end - 1] == _NEWLINE
            and _fixed_cells(text, i, row, alleles, counts)
        ):
            end = _cells(text, i, row, kinds, slots, is_target, alleles, counts)
            if end < 0:
                return row, start, DOUBT
        start = end
    return len(alleles), start, FINE
