"""Panel files that lie, made with h5py: each change is given the opened file and its folder."""

from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

Change = Callable[[h5py.File, Path], None]
_BLOSC = hdf5plugin.Blosc(cname="zstd", clevel=4, shuffle=hdf5plugin.Blosc.BITSHUFFLE)


def _attribute(name: str, value: object) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return change


def _instead(name: str, **how: object) -> Change:
    """Another dataset in the place of one."""

    def change(file: h5py.File, folder: Path) -> None:
        del file[name]
        file.create_dataset(name, **how)

    return change


def _claims(
    name: str, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...] | None
) -> Change:
    """A dataset of a shape of which nothing, or next to nothing, is stored."""

    def change(file: h5py.File, folder: Path) -> None:
        del file[name]
        file.create_dataset(
            name, shape=shape, dtype=dtype, chunks=chunks, **(_BLOSC if chunks else {})
        )

    return change


def _all_claim(n_sites: int) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        for group in ("variants", "calldata"):
            for name in list(file[group]):
                old = file[group][name]
                shape, dtype = (n_sites, *old.shape[1:]), old.dtype
                del file[group][name]
                chunks = (1 << 16, *shape[1:])
                file[group].create_dataset(name, shape=shape, dtype=dtype, chunks=chunks, **_BLOSC)

    return change


def _gzip_bomb(file: h5py.File, folder: Path) -> None:
    """4 GB of zeros in one chunk of 4 MB."""
    shape = file["calldata/GT"].shape
    del file["calldata/GT"]
    file.create_dataset(
        "calldata/GT",
        shape=(1 << 26, *shape[1:]),
        dtype="i1",
        chunks=(1 << 25, *shape[1:]),
        compression="gzip",
    )


def _blosc_bomb(file: h5py.File, folder: Path) -> None:
    """A chunk whose own header claims 2 GB."""
    data = file["calldata/GT"]
    mask, raw = data.id.read_direct_chunk((0, 0, 0))
    made = bytearray(raw)
    made[4:8] = (0x7FFFFF00).to_bytes(4, "little")
    data.id.write_direct_chunk((0, 0, 0), bytes(made), mask)


def _chunk(change: Callable[[bytearray], bytearray]) -> Change:
    """Other bytes for the compressed genotypes, written as HDF5 does, with no checksum to fail."""

    def made(file: h5py.File, folder: Path) -> None:
        data = file["calldata/GT"]
        _, raw = data.id.read_direct_chunk((0, 0, 0))
        data.id.write_direct_chunk((0, 0, 0), bytes(change(bytearray(raw))))

    return made


def _flipped(raw: bytearray) -> bytearray:
    raw[len(raw) // 2] ^= 16
    return raw


def _values(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Other values in a dataset that is as sound as before: only the digest can tell."""

    def made(file: h5py.File, folder: Path) -> None:
        file[name][...] = change(file[name][...])

    return made


def _link(name: str, link: Callable[[Path], object]) -> Change:
    def made(file: h5py.File, folder: Path) -> None:
        del file[name]
        file[name] = link(folder)

    return made


def _stored_outside(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(200_000))
    shape = file["calldata/GT"].shape
    del file["calldata/GT"]
    file.create_dataset(
        "calldata/GT", shape=shape, dtype="i1", external=[("secret", 0, h5py.h5f.UNLIMITED)]
    )


def _virtual(file: h5py.File, folder: Path) -> None:
    shape = file["calldata/GT"].shape
    layout = h5py.VirtualLayout(shape=shape, dtype="i1")
    layout[...] = h5py.VirtualSource(folder / "sound.h5", "calldata/GT", shape=shape)
    del file["calldata/GT"]
    file.create_virtual_dataset("calldata/GT", layout)


def _moved(name: str, link: Callable[[str], object]) -> Change:
    def made(file: h5py.File, folder: Path) -> None:
        file.move(name, "elsewhere")
        file[name] = link("elsewhere")

    return made


def _group(file: h5py.File, folder: Path) -> None:
    del file["calldata/GT"]
    file.create_group("calldata/GT")


def _loop(file: h5py.File, folder: Path) -> None:
    del file["variants/POS"]
    file["variants/POS"] = file["variants"]


def _set_pos(a: np.ndarray, where: object, value: int) -> np.ndarray:
    a[where] = value
    return a


PICKLE = b"cposix\nsystem\n(S'touch marker'\ntR."

PANELS: dict[str, Change] = {
    "format_name bytes": _attribute("format_name", np.bytes_(b"snvrag-panel")),
    "format_version text": _attribute("format_version", "one"),
    "format_version list": _attribute("format_version", [1, 1]),
    "format_version 2^63": _attribute("format_version", np.uint64(2**63)),
    "format_version nan": _attribute("format_version", float("nan")),
    "format_version empty": _attribute("format_version", h5py.Empty("f")),
    "digest of 10 MB": _attribute("digest", "x" * 60_000),
    "digest missing": _attribute("digest", None),
    "digest number": _attribute("digest", 7),
    "provenance pickle": _attribute("provenance", np.void(PICKLE)),
    "provenance not JSON": _attribute("provenance", "{"),
    "GT of 2^40 sites": _claims("calldata/GT", (1 << 40, 24, 2), "i1", (512, 24, 2)),
    "all of 2^40 sites": _all_claim(1 << 40),
    "all of 10^8 sites": _all_claim(100_000_000),
    "GT contiguous, nothing stored": _claims("calldata/GT", (180, 24, 2), "i1", None),
    "GT of unwritten chunks": _claims("calldata/GT", (180, 24, 2), "i1", (90, 24, 2)),
    "GT of a chunk of 2 GB": _claims("calldata/GT", (1 << 26, 24, 2), "i1", (1 << 25, 24, 2)),
    "GT gzip bomb": _gzip_bomb,
    "GT blosc bomb": _blosc_bomb,
    "GT int16": _instead("calldata/GT", data=np.zeros((180, 24, 2), "i2")),
    "GT uint8": _instead("calldata/GT", data=np.zeros((180, 24, 2), "u1")),
    "GT float": _instead("calldata/GT", data=np.zeros((180, 24, 2), "f4")),
    "GT bool": _instead("calldata/GT", data=np.zeros((180, 24, 2), "?")),
    "GT of another rank": _instead("calldata/GT", data=np.zeros((180, 48), "i1")),
    "GT of no site": _instead("calldata/GT", data=np.zeros((0, 24, 2), "i1")),
    "GT of no sample": _instead("calldata/GT", data=np.zeros((180, 0, 2), "i1")),
    "GT ploidy 3": _instead("calldata/GT", data=np.zeros((180, 24, 3), "i1")),
    "GT of 23 samples": _instead("calldata/GT", data=np.zeros((180, 23, 2), "i1")),
    "GT of 179 sites": _instead("calldata/GT", data=np.zeros((179, 24, 2), "i1")),
    "GT scalar": _instead("calldata/GT", data=np.int8(0)),
    "GT a group": _group,
    "GT all 7": _values("calldata/GT", lambda a: a * 0 + 7),
    "GT all -1": _values("calldata/GT", lambda a: a * 0 - 1),
    "GT all -2": _values("calldata/GT", lambda a: a * 0 - 2),
    "GT compound": _instead("calldata/GT", data=np.zeros((180, 24, 2), [("a", "i1")])),
    "compressed byte changed": _chunk(_flipped),
    "compressed bytes lost": _chunk(lambda raw: raw[:-20]),
    "compressed bytes zeroed": _chunk(lambda raw: bytearray(len(raw))),
    "chunk of one byte": _chunk(lambda raw: raw[:1]),
    "POS falls": _values("variants/POS", lambda a: a[::-1]),
    "POS all 0": _values("variants/POS", lambda a: a * 0),
    "POS negative": _values("variants/POS", lambda a: -a),
    "POS 2^31 - 1": _values("variants/POS", lambda a: _set_pos(a, -1, 2**31 - 1)),
    "POS text": _instead("variants/POS", data=np.array([b"1"] * 180)),
    "POS vlen text": _instead("variants/POS", data=["1"] * 180, dtype=h5py.string_dtype()),
    "POS itself the group": _loop,
    "CHROM vlen": _instead("variants/CHROM", data=["20"] * 180, dtype=h5py.string_dtype()),
    "CHROM vlen of pickles": _instead(
        "variants/CHROM", data=[PICKLE] * 180, dtype=h5py.special_dtype(vlen=bytes)
    ),
    "CHROM of pickles": _instead("variants/CHROM", data=np.array([PICKLE] * 180)),
    "CHROM of references": _instead("variants/CHROM", shape=(180,), dtype=h5py.ref_dtype),
    "CHROM two places": _values("variants/CHROM", lambda a: _set_pos(a, slice(60, 90), b"21")),
    "CHROM in latin-1": _values("variants/CHROM", lambda a: _set_pos(a, 5, b"\xe9")),
    "CHROM empty": _values("variants/CHROM", lambda a: a * 1 if False else np.array([b""] * 180)),
    "CHROM with a tab": _instead("variants/CHROM", data=np.array([b"20\t1"] * 180)),
    "REF of 1 MB each": _claims("variants/REF", (180,), "S1000000", (180,)),
    "REF of 2 GB each": _claims("variants/REF", (180,), "S2000000000", None),
    "ALT with a newline": _instead("variants/ALT", data=np.array([b"C\n20"] * 180)),
    "ID with a tab": _instead("variants/ID", data=np.array([b"x\ty"] * 180)),
    "samples in latin-1": _instead("samples", data=np.array([b"\xe9%d" % i for i in range(24)])),
    "samples all one": _instead("samples", data=np.array([b"S"] * 24)),
    "samples empty": _instead("samples", data=np.array([b""] * 24)),
    "samples missing": lambda file, folder: file.__delitem__("samples"),
    "AF nan": _values("variants/AF", lambda a: a * np.nan),
    "AF 7": _values("variants/AF", lambda a: a * 0 + 7),
    "AF big-endian": _instead("variants/AF", data=np.zeros(180, ">f4")),
    "AF float64": _instead("variants/AF", data=np.zeros(180, "f8")),
    "AC negative": _values("variants/AC", lambda a: a * 0 - 5),
    "AC 2^31 - 1": _values("variants/AC", lambda a: a * 0 + (2**31 - 1)),
    "AC one off": _values("variants/AC", lambda a: a + 1),
    "AN 0": _values("variants/AN", lambda a: a * 0),
    "frequencies gone": lambda file, folder: file.__delitem__("frequencies"),
    "external link": _link("calldata/GT", lambda at: h5py.ExternalLink("sound.h5", "/calldata/GT")),
    "external link to a device": _link("samples", lambda at: h5py.ExternalLink("/dev/zero", "/x")),
    "external link to itself": _link(
        "variants/POS", lambda at: h5py.ExternalLink("panel.h5", "/variants/POS")
    ),
    "group by external link": _link(
        "variants", lambda at: h5py.ExternalLink("sound.h5", "/variants")
    ),
    "soft link": _moved("variants/POS", lambda name: h5py.SoftLink(f"/{name}")),
    "soft link to itself": _link("variants/POS", lambda at: h5py.SoftLink("/variants/POS")),
    "soft link to nothing": _link("variants/POS", lambda at: h5py.SoftLink("/nothing")),
    "stored in another file": _stored_outside,
    "virtual": _virtual,
}
PANELS["GT of others"] = _values("calldata/GT", lambda a: a[:, ::-1])
CONSISTENT = {"AC one off", "AF big-endian", "REF of 1 MB each", "ALT of others", "GT of others"}
"""Sound panels of other content, which only the digest tells: ``verify --deep`` looks at it."""
PANELS["ALT of others"] = _values("variants/ALT", lambda a: np.where(a == b"C", b"G", a))
