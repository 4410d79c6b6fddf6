"""Alleles as bits: rows of haplotypes in ``np.packbits`` order, from and to either axis."""

import numpy as np
from numpy.typing import NDArray


def packed_bytes(n_sites: int) -> int:
    """Bytes of one haplotype of ``n_sites`` alleles."""
    return -(-n_sites // 8)


def pack(alleles: NDArray[np.uint8] | NDArray[np.bool_], width: int) -> NDArray[np.uint8]:
    """Pack 0/1 rows [..., sites] in ``np.packbits`` order to uint8 [..., width], zero-filled."""
    packed = np.packbits(alleles, axis=-1)
    padding = width - packed.shape[-1]
    return np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, padding)]) if padding else packed


def pack_sites(alleles: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """:func:`pack` of the transpose of ``alleles`` [sites, n]: uint8 [n, width]."""
    packed = np.zeros((width, alleles.shape[1]), dtype=np.uint8)
    for bit in range(8):
        rows = alleles[bit::8]
        packed[: len(rows)] |= rows << (7 - bit)
    return np.ascontiguousarray(packed.T)


def unpack_sites(codes: NDArray[np.uint8], n_sites: int) -> NDArray[np.uint8]:
    """Back from :func:`pack_sites`: uint8 [n_sites, n] of ``codes`` [n, width]."""
    by_site = np.ascontiguousarray(codes.T)
    alleles = np.empty((8 * len(by_site), len(codes)), dtype=np.uint8)
    for bit in range(8):
        np.right_shift(by_site, 7 - bit, out=alleles[bit::8])
    alleles &= 1
    return alleles[:n_sites]
