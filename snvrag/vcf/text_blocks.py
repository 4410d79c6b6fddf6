"""Blocks of genotypes out of the text of a VCF, where it is of the plain kind."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from snvrag.vcf import decoding as d
from snvrag.vcf.blocks import (
    NO_SECOND_HAPLOTYPE,
    PLOIDY,
    SKIP_INCOMPLETE,
    GenotypeBlock,
    RecordFilter,
    SiteCounts,
)
from snvrag.vcf.text import DoubtError, TextSettings, body

_KINDS = {"Integer": d.INTEGER, "Float": d.FLOAT, "String": d.TEXT}
_MAX_FORMATS = 50
_MAX_ALTS = 100
_AF = re.compile(rb"(?:^|;)AF=(\d{1,15}(?:\.\d{1,15})?(?:[eE][+-]?\d{1,2})?)(?:;|$)")


class _Block:
    """Kept records of a block so far, and room for what is read of the next lines."""

    def __init__(self, n_sites: int, n_samples: int) -> None:
        self.genotypes = np.empty((n_sites, n_samples, PLOIDY), dtype=np.int8)
        self.marks = np.empty((n_sites, d.N_MARKS), dtype=np.int64)
        self.positions = np.empty(n_sites, dtype=np.int64)
        self.flags = np.empty(n_sites, dtype=np.uint8)
        self.counts = np.empty((n_sites, d.N_COUNTS), dtype=np.int64)
        self.chrom: list[str] = []
        self.id: list[str] = []
        self.ref: list[str] = []
        self.alt: list[str] = []
        self.af: list[float] = []

    @property
    def n_sites(self) -> int:
        return len(self.chrom)

    def append(self, text: bytes, keep: NDArray[np.int64], want_info_af: bool) -> None:
        """Keep some of the lines read last, by their rows."""
        rows = slice(self.n_sites, self.n_sites + len(keep))
        if len(keep) and keep[-1] != rows.stop - 1:
            for array in (self.genotypes, self.marks, self.positions, self.counts):
                array[rows] = array[keep]
        # One decoding and splitting for all lines: five fields of each.
        begins, ends = self.marks[rows, d.CHROM].tolist(), self.marks[rows, d.QUAL].tolist()
        sites = [text[i : j - 1] for i, j in zip(begins, ends, strict=True)]
        fields = b"\t".join(sites).decode().split("\t") if sites else []
        self.chrom += fields[0::5]
        self.id += fields[2::5]
        self.ref += fields[3::5]
        self.alt += fields[4::5]
        for mark in self.marks[rows].tolist() if want_info_af else ():
            found = _AF.search(text[mark[d.INFO] : mark[d.FORMAT] - 1])
            if found is None:
                raise DoubtError
            self.af.append(float(found[1]))

    def drop(self, keep: NDArray[np.int64]) -> None:
        """Keep only some sites."""
        for array in (self.genotypes, self.positions, self.counts):
            array[: len(keep)] = array[keep]
        for name in ("chrom", "id", "ref", "alt", "af"):
            values = getattr(self, name)
            setattr(self, name, [values[i] for i in keep] if values else values)

    def finish(self) -> GenotypeBlock:
        n = self.n_sites
        counts = self.counts[:n]
        return GenotypeBlock(
            self.chrom,
            self.positions[:n].tolist(),
            self.id,
            self.ref,
            self.alt,
            self.genotypes[:n],
            np.array(self.af or np.full(n, np.nan), dtype=np.float32),
            SiteCounts(
                ac=counts[:, d.AC],
                an=counts[:, d.AN],
                ref=counts[:, d.HOM_REF],
                het=counts[:, d.HET],
                people=counts[:, d.PEOPLE],
            ),
        )


class TextBlocks:
    """Reads blocks as htslib would give them, or stops with :class:`DoubtError`.

    Whatever htslib or the checks of its records would refuse is a doubt too: they word the error.
    """

    def __init__(self, settings: TextSettings, judge: RecordFilter) -> None:
        self.records = 0
        self._settings, self._judge = settings, judge
        self._n_samples = int(settings.slots.max()) + 1
        self._in_order = np.array_equal(settings.slots, np.arange(self._n_samples))
        self._form, self._kinds = b"\0", np.zeros(0, dtype=np.uint8)
        self._haploid: NDArray[np.bool_] | None = None

    def blocks(self, block_sites: int) -> Iterator[GenotypeBlock | None]:
        """Yield kept records in blocks; None for a block of which all records are incomplete.

        Raises:
            DoubtError: see the class.
        """
        s = self._settings
        block = _Block(block_sites, self._n_samples)
        for text, begin, end in body(s.source, len(s.slots), s.pool):
            start = begin
            while start < end:
                n_lines, start = self._decode(text, start, end, block)
                block.append(text, self._keep(text, block, n_lines), s.want_info_af)
                if block.n_sites == block_sites:
                    yield self._finish(block)
                    block = _Block(block_sites, self._n_samples)
        if block.n_sites:
            yield self._finish(block)

    def _decode(self, text: bytes, start: int, end: int, block: _Block) -> tuple[int, int]:
        """Read lines behind what the block holds; returns how many, and where the next begins."""
        s, room = self._settings, slice(block.n_sites, None)
        n_lines, start, state = d.decode(
            np.frombuffer(text, dtype=np.uint8, count=end),
            start,
            np.frombuffer(self._form, dtype=np.uint8),
            self._kinds,
            s.slots,
            self._in_order,
            s.is_target,
            block.genotypes[room],
            block.marks[room],
            block.positions[room],
            block.flags[room],
            block.counts[room],
        )
        if state == d.DOUBT:
            raise DoubtError
        if state == d.OTHER_FORMAT:
            self._take_format(text[start : text.index(b"\n", start)].split(b"\t", 9)[8])
        return n_lines, start

    def _take_format(self, form: bytes) -> None:
        keys = form.decode("ascii", "replace").split(":")
        types = [self._settings.format_types.get(key, "") for key in keys]
        if (
            form == self._form
            or keys[0] != "GT"
            or types[0] != "String"
            or len(keys) > _MAX_FORMATS
            or len(set(keys)) != len(keys)
            or not set(types) <= set(_KINDS)
        ):
            raise DoubtError
        self._form = form
        self._kinds = np.array([_KINDS[name] for name in types[1:]], dtype=np.uint8)

    def _keep(self, text: bytes, block: _Block, n_lines: int) -> NDArray[np.int64]:
        """Rows of the block, of those read last, to keep."""
        rows = np.arange(block.n_sites, block.n_sites + n_lines)
        if not n_lines:
            return rows
        positions, flags = block.positions[rows], block.flags[rows]
        # What is one SNV alone at its position, behind and before others of its chromosome, needs
        # no further look.
        clear = flags == d.IS_SNV | d.SAME_CHROM
        rises = np.diff(positions) > 0
        clear[1:] &= rises
        clear[:-1] &= rises
        clear[-1] = False
        is_wanted, judge = self._settings.is_wanted, self._judge
        if is_wanted:
            clear[:] = False
        keep = clear.copy()
        self.records += int(clear.sum())
        for i in np.flatnonzero(~clear).tolist():
            mark = block.marks[rows[i]].tolist()
            chrom = text[mark[d.CHROM] : mark[d.POS] - 1].decode()
            position = int(positions[i])
            if is_wanted and not is_wanted(chrom, position):
                continue
            self.records += 1
            if i and clear[i - 1]:
                judge.move_to(int(positions[i - 1]))
            ref = text[mark[d.REF] : mark[d.ALT] - 1].decode()
            alt = text[mark[d.ALT] : mark[d.QUAL] - 1].decode()
            keep[i] = judge.keeps(chrom, position, ref, _alts(alt))
        kept: NDArray[np.int64] = rows[keep]
        return kept

    def _finish(self, block: _Block) -> GenotypeBlock | None:
        counts = block.counts[: block.n_sites]
        if counts[:, d.MAX_ALLELE].max() > 1:
            raise DoubtError
        bad = counts[:, d.BAD] > 0
        if bad.any():
            if not self._settings.drop_incomplete:
                raise DoubtError
            self._judge.skipped[SKIP_INCOMPLETE] += int(bad.sum())
            block.drop(np.flatnonzero(~bad))
            counts = block.counts[: block.n_sites]
            if not block.n_sites:
                return None
        if self._haploid is None:
            self._haploid = block.genotypes[0, :, 1] == NO_SECOND_HAPLOTYPE
        if counts[:, d.HAPLOID].any() or self._haploid.any():
            haploid = block.genotypes[: block.n_sites, :, 1] == NO_SECOND_HAPLOTYPE
            if (haploid != self._haploid).any():
                raise DoubtError
        return block.finish()


def _alts(text: str) -> list[str]:
    if text == ".":
        return []
    alts = text.split(",")
    if len(alts) > 1 and ("" in alts or "." in alts or len(alts) > _MAX_ALTS):
        raise DoubtError
    return alts
