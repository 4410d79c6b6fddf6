"""Exact nearest haplotypes of one window: float embeddings against packed alleles.

    python benchmarks/retrieval.py [--haplotypes 5008] [--dims 384] [--embedded 256] [--k 1]

One thread. The full embedding (L·D floats per haplotype) needs 3.9 GB at 5,008 haplotypes, so it is
measured on ``--embedded`` haplotypes and its figures are extrapolated linearly, which is said.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch

from snvrag.config import ModelConfig, TrainConfig
from snvrag.dataset import ranking_sites
from snvrag.model import SiteEmbedder, SiteEmbedding
from snvrag.retrieval import BinaryIndex

SITES, LENGTH = 511, 512
SAMPLES, K = 72, 32


def best(work: Callable[[], object], repeat: int = 5) -> float:
    """Shortest of ``repeat`` wall times in seconds."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def row(name: str, size: float, build: float | None, search: float, note: str = "") -> None:
    """Print one line of the table."""
    shown = f"{build * 1e3:11,.1f}" if build is not None else f"{'-':>11}"
    print(f"{name:34} {size:15,.0f} {shown} {search * 1e3:11,.2f}  {note}")


def embedding_row(
    alleles: np.ndarray, queries: np.ndarray, dims: int, embedded: int, k: int
) -> None:
    """IndexFlatL2 over L·D, on a part of the haplotypes, extrapolated."""
    config = ModelConfig(dims=dims, heads=dims // 32)
    embed = SiteEmbedder(SiteEmbedding(config, LENGTH))
    af = np.full(LENGTH, 0.3, dtype=np.float32)

    def vectors(rows: np.ndarray) -> np.ndarray:
        tokens = np.full((len(rows), LENGTH), 1, dtype=np.int64)
        tokens[:, 1:] = rows + 3
        return embed(tokens, af).reshape(len(rows), -1)

    part = min(embedded, len(alleles))
    flat = faiss.IndexFlatL2(LENGTH * dims)
    build = best(lambda: (flat.reset(), flat.add(vectors(alleles[:part]))), 1)
    asked = vectors(queries)
    search = best(lambda: flat.search(asked, k), 1)
    scale = len(alleles) / part
    note = f"measured on {part}, extrapolated x{scale:.1f}" if scale > 1 else ""
    size = len(alleles) * LENGTH * dims * 4
    row(f"IndexFlatL2, L*D = {LENGTH * dims:,}", size, build * scale, search * scale, note)


def main() -> None:
    """Print the table of DESIGN section 6, and what one JIT build and one batch cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--haplotypes", type=int, default=5008)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--embedded", type=int, default=256)
    parser.add_argument("--k", type=int, default=1, help="neighbours that the table searches")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    alleles = (generator.random((arguments.haplotypes, SITES)) < 0.3).astype(np.uint8)
    compare(alleles, arguments.dims, arguments.embedded, arguments.k)


def compare(alleles: np.ndarray, dims: int, embedded: int, k: int) -> None:
    """Print all of one window.

    Args:
        alleles: uint8 [haplotypes, SITES].
        dims: of the float embedding.
        embedded: haplotypes that it is measured on.
        k: neighbours that the table searches.
    """
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    n = len(alleles)
    queries = alleles[: 2 * SAMPLES]
    print(f"{n:,} haplotypes x {SITES} sites, {len(queries)} queries, K = {k}, one thread")
    print(f"{'index':34} {'bytes':>15} {'build ms':>11} {'search ms':>11}")
    embedding_row(alleles, queries, dims, embedded, k)

    floats = alleles.astype(np.float32)
    flat = faiss.IndexFlatL2(SITES)
    build = best(lambda: (flat.reset(), flat.add(floats)))
    search = best(lambda: flat.search(floats[: len(queries)], k))
    row(f"IndexFlatL2, L = {SITES}", floats.nbytes, build, search)

    index = BinaryIndex.build(alleles, SITES)
    build = best(lambda: BinaryIndex.build(alleles, SITES).to_bytes())
    search = best(lambda: index.search(queries, k))
    row("IndexBinaryFlat, 512 bits", index.nbytes, build, search)
    search = best(lambda: index.search(queries, k, device="cpu:0"))
    row("+-1 matmul, torch float32", n * LENGTH * 4, None, search, "packing included")

    observed = np.random.default_rng(0).random(SITES) < 0.4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index_0.faiss"
        jit = best(lambda: path.write_bytes(BinaryIndex.build(alleles, SITES).to_bytes()))
        read = best(lambda: BinaryIndex.from_bytes(path.read_bytes(), SITES, path))
    mask = best(lambda: index.masked(observed))
    wide = BinaryIndex.join([index, index, index])
    own = np.arange(len(queries)) // 2 * 2
    exclude = np.stack([own, own + 1], axis=1)
    # The sites that training ranks by: the window's and the nearest ones of the flanks.
    pattern = ranking_sites(np.tile(observed, 3), SITES, 2 * SITES, TrainConfig())
    asked = np.tile(queries, 3)
    batch = best(lambda: wide.masked(pattern).search(asked, K, exclude))
    print(
        f"one window: build and write {jit * 1e3:.2f} ms, read {read * 1e3:.2f} ms, "
        f"mask {mask * 1e3:.2f} ms"
    )
    print(
        f"a batch of {len(queries) // 2} samples over window and flanks, K = {K}, own sample "
        f"excluded: mask and search {batch * 1e3:.2f} ms"
    )


if __name__ == "__main__":
    main()
