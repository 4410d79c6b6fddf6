from itertools import pairwise

import faiss
import numpy as np
import pytest
import torch
from conftest import mosaic
from hypothesis import given, settings
from hypothesis import strategies as st

from snvrag import retrieval
from snvrag.config import ModelConfig
from snvrag.conversion import convert
from snvrag.errors import InputError, UsageError, WorkError
from snvrag.model import SiteEmbedder, SiteEmbedding
from snvrag.panel import Panel
from snvrag.retrieval import BinaryIndex, EmbeddingIndex, check_faiss, pack, read_faiss


def brute_force(alleles, queries, observed, k, exclude=None, keep=None):
    """Neighbours by counting every mismatch and sorting by (distance, id)."""
    n = len(alleles)
    ids = np.full((len(queries), k), -1)
    distances = np.full((len(queries), k), -1)
    for row, query in enumerate(queries):
        banned = set() if exclude is None else set(exclude[row].tolist())
        candidates = [
            (int((alleles[i] != query)[observed].sum()), i)
            for i in range(n)
            if i not in banned and (keep is None or keep[i])
        ]
        for column, (distance, i) in enumerate(sorted(candidates)[:k]):
            ids[row, column], distances[row, column] = i, distance
    return ids, distances


@st.composite
def searches(draw):
    """Few founders and heavy masks: many ties, at the k-th neighbour above all."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, n_queries = draw(st.integers(1, 60)), draw(st.integers(1, 8))
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    # Rows of whole eights of bytes, with stretches in which nothing is observed.
    wide = draw(st.booleans())
    sizes = [128] * len(sizes) if wide else sizes
    founders = generator.integers(0, 2, (draw(st.integers(1, 6)), sum(sizes))).astype(np.uint8)
    alleles = founders[generator.integers(0, len(founders), n)]
    queries = founders[generator.integers(0, len(founders), n_queries)] ^ (
        generator.random((n_queries, sum(sizes))) < 0.1
    ).astype(np.uint8)
    observed = generator.random(sum(sizes)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    if wide:
        observed[draw(st.integers(0, 128)) : draw(st.integers(100, 300))] = False
    exclude = generator.integers(-1, n, (n_queries, draw(st.integers(0, 3))))
    keep = generator.random(n) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return alleles, queries, sizes, observed, draw(st.integers(1, 40)), exclude, keep


def joined(alleles, sizes):
    edges = np.cumsum([0, *sizes])
    width = max(sizes)
    parts = [BinaryIndex.build(alleles[:, a:b], width) for a, b in pairwise(edges)]
    return BinaryIndex.join(parts)


@given(searches())
@settings(max_examples=150, deadline=None)
def test_search_agrees_with_brute_force_ties_included(search):
    alleles, queries, sizes, observed, k, exclude, keep = search
    index = joined(alleles, sizes)
    np.testing.assert_array_equal(index.alleles(np.arange(len(alleles))), alleles)
    ids, distances = brute_force(alleles, queries, observed, k, exclude, keep)
    for device in ("cpu", "torch"):
        found = index.masked(observed, keep).search(
            queries, k, exclude, device="cpu" if device == "cpu" else "cpu:0"
        )
        np.testing.assert_array_equal(found.ids, ids, err_msg=device)
        np.testing.assert_array_equal(found.distances, distances, err_msg=device)


@pytest.mark.parametrize("n", [5008, 40_000])
def test_boundary_ties_do_not_depend_on_threads_or_size(n):
    generator = np.random.default_rng(0)
    founders = generator.integers(0, 2, (4, 96)).astype(np.uint8)
    alleles = founders[generator.integers(0, 4, n)]
    queries = founders[generator.integers(0, 4, 70)]
    index = BinaryIndex.build(alleles, 96)
    before = faiss.omp_get_max_threads()
    try:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            found = index.search(queries, 34)
            for row in range(len(queries)):
                same = np.flatnonzero((alleles == queries[row]).all(axis=1))[:34]
                np.testing.assert_array_equal(found.ids[row], same)
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_search_finds_the_same():
    alleles = mosaic(400, 511)
    index = BinaryIndex.build(alleles, 511).masked(np.random.default_rng(0).random(511) < 0.3)
    a, b = index.search(alleles[:50], 32), index.search(alleles[:50], 32, device="cuda")
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.distances, b.distances)


def embedder(seed, length, dims=16):
    torch.manual_seed(seed)
    config = ModelConfig(dims=dims, heads=2, af_frequencies=4)
    return SiteEmbedder(SiteEmbedding(config, length))


def assert_same_distances(alleles, queries, af, max_seq_len, seed):
    """The contract: both kinds of index return the same Hamming distances."""
    generator = np.random.default_rng(seed)
    n_sites = alleles.shape[1]
    for rate in (0.05, 0.5, 1.0):
        observed = generator.random(n_sites) < rate
        exclude = np.arange(len(queries))[:, None]
        exact = BinaryIndex.build(alleles, n_sites).masked(observed)
        floats = EmbeddingIndex.build(
            alleles, observed, af, embedder(seed, max_seq_len), max_seq_len
        )
        for k in (1, 8, 32):
            a = exact.search(queries, k, exclude)
            b = floats.search(queries, k, exclude)
            np.testing.assert_array_equal(a.distances, b.distances)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_embedding_search_is_hamming_search_on_random_haplotypes(seed):
    generator = np.random.default_rng(seed)
    alleles = generator.integers(0, 2, (120, 150)).astype(np.uint8)
    af = generator.random(150).astype(np.float32)
    assert_same_distances(alleles, alleles[:10], af, 160, seed)


def test_embedding_search_is_hamming_search_on_real_haplotypes(dev_folder, tmp_path):
    convert(dev_folder / "panel.vcf.gz", tmp_path / "p.h5")
    with Panel.open(tmp_path / "p.h5") as panel:
        for start, seed in ((0, 3), (511 * 17, 4)):
            alleles = panel.alleles(start, start + 511)
            assert_same_distances(alleles, alleles[:6], panel.af[start : start + 511], 512, seed)


def test_embedding_index_survives_its_file(tmp_path):
    alleles, af = mosaic(20, 30), np.full(30, 0.3, dtype=np.float32)
    observed = np.arange(30) % 2 == 0
    index = EmbeddingIndex.build(alleles, observed, af, embedder(0, 32), 32)
    again = EmbeddingIndex.from_bytes(index.to_bytes(), tmp_path, observed, af, embedder(0, 32), 32)
    np.testing.assert_array_equal(index.search(alleles, 5).ids, again.search(alleles, 5).ids)
    with pytest.raises(InputError, match="FAISS"):
        EmbeddingIndex.from_bytes(b"xxxx", tmp_path, observed, af, embedder(0, 32), 32)


def test_the_index_is_built_in_eval_mode_and_the_flag_restored():
    """ORIGINAL B10, B11: dropout noise in index or query."""

    class Noisy(SiteEmbedding):
        def forward(self, tokens, context):
            return torch.nn.functional.dropout(super().forward(tokens, context), 0.5, self.training)

    torch.manual_seed(0)
    noisy = Noisy(ModelConfig(dims=16, heads=2, af_frequencies=4), 32).train()
    alleles, af = mosaic(20, 30), np.full(30, 0.3, dtype=np.float32)
    observed = np.ones(30, dtype=bool)
    builds = [
        EmbeddingIndex.build(alleles, observed, af, SiteEmbedder(noisy), 32).to_bytes()
        for _ in range(2)
    ]
    assert builds[0] == builds[1]
    assert noisy.training


def test_an_index_file_is_a_plain_faiss_binary_index(tmp_path):
    alleles = mosaic(12, 20)
    index = BinaryIndex.build(alleles, 511)
    path = tmp_path / "i.faiss"
    path.write_bytes(index.to_bytes())
    flat = faiss.read_index_binary(str(path))
    assert (flat.d, flat.ntotal) == (512, 12)
    again = BinaryIndex.from_bytes(path.read_bytes(), 20, path)
    np.testing.assert_array_equal(again.alleles(np.arange(12)), alleles)
    bits = np.unpackbits(again.codes, axis=1)
    np.testing.assert_array_equal(bits[:, :20], alleles)
    assert not bits[:, 20:].any()
    for data in (b"", b"hello", path.read_bytes()[:-5]):
        with pytest.raises(InputError, match=r"i\.faiss"):
            BinaryIndex.from_bytes(data, 20, path)


def test_masked_panel_alleles_never_change_the_neighbours():
    """ORIGINAL B1."""
    alleles = mosaic(60, 80)
    observed = np.random.default_rng(1).random(80) < 0.4
    queries = mosaic(5, 80, seed=9)
    before = BinaryIndex.build(alleles, 80).masked(observed).search(queries, 8)
    changed = np.where(observed, alleles, 1 - alleles)
    after = BinaryIndex.build(changed, 80).masked(observed).search(queries, 8)
    np.testing.assert_array_equal(before.ids, after.ids)


def test_pack_fills_unused_bits_with_zero():
    assert pack(np.ones((1, 3), dtype=np.uint8), 2).tolist() == [[0b11100000, 0]]


def test_two_faiss_wheels_are_refused_with_the_remedy(monkeypatch):
    check_faiss()
    monkeypatch.setattr(retrieval, "version", lambda name: "1.15.1")
    with pytest.raises(UsageError, match=r"faiss-cpu 1\.15\.1, faiss-gpu 1\.15\.1") as caught:
        check_faiss()
    assert "pip uninstall" in caught.value.hint


def test_a_hollow_faiss_module_is_refused(monkeypatch):
    monkeypatch.delattr(retrieval.faiss, "IndexBinaryFlat")
    with pytest.raises(UsageError, match="incomplete"):
        check_faiss()


@pytest.mark.parametrize("use_heap", [True, False])
@pytest.mark.parametrize("width", [1, 4, 8, 16, 20, 32, 33, 64, 192, 512])
def test_faiss_keeps_the_smallest_ids_among_ties(width, use_heap):
    """FAISS does not promise it; every code width has a search routine of its own."""
    generator = np.random.default_rng(width)
    for mask in (0, 0x11, 0xFF):
        codes = generator.integers(0, 256, (4, width)).astype(np.uint8) & mask
        reference = codes[generator.integers(0, 4, 700)]
        queries = codes[generator.integers(0, 4, 33)]
        distance = np.bitwise_count(reference[None] ^ queries[:, None]).sum(2, dtype=np.int64)
        order = np.argsort(distance, axis=1, kind="stable")
        flat = faiss.IndexBinaryFlat(8 * width)
        flat.use_heap = use_heap
        flat.add(reference)
        for k in (1, 2, 9, 34, 700):
            found, ids = flat.search(queries, k)
            ids = np.take_along_axis(ids, np.lexsort((ids, found), axis=1), axis=1)
            np.testing.assert_array_equal(ids, order[:, :k])


def test_nothing_to_find_and_nothing_asked():
    alleles, af = mosaic(20, 30), np.full(30, 0.3, dtype=np.float32)
    observed, nobody = np.ones(30, dtype=bool), np.zeros(20, dtype=bool)
    exact = BinaryIndex.build(alleles, 30)
    floats = EmbeddingIndex.build(alleles, observed, af, embedder(0, 32), 32)
    no_floats = EmbeddingIndex.build(alleles, observed, af, embedder(0, 32), 32, nobody)
    for index in (exact.masked(observed, nobody), no_floats):
        assert index.search(alleles[:2], 3).ids.tolist() == [[-1] * 3] * 2
    everyone = np.tile(np.arange(20), (2, 1))
    for index in (exact, floats):
        assert index.search(alleles[:0], 3).ids.shape == (0, 3)
        assert index.search(alleles[:2], 3, everyone).ids.tolist() == [[-1] * 3] * 2
        assert index.search(alleles[:2], 3, everyone).distances.tolist() == [[-1] * 3] * 2
        assert index.search(alleles[:2], 25).ids[:, 20:].tolist() == [[-1] * 5] * 2


def test_a_window_of_one_site():
    alleles = np.array([[0], [1], [0]], dtype=np.uint8)
    found = BinaryIndex.build(alleles, 511).search(np.array([[1]], dtype=np.uint8), 3)
    assert found.ids.tolist() == [[1, 0, 2]]
    assert found.distances.tolist() == [[0, 1, 1]]


def test_masks_and_selections_compose():
    alleles = mosaic(60, 80)
    generator = np.random.default_rng(3)
    a, b = generator.random((2, 80)) < 0.6
    keep = generator.random(60) < 0.5
    twice = BinaryIndex.build(alleles, 80).masked(a, keep)
    half = np.arange(keep.sum()) % 2 == 0
    found = twice.masked(b, half).search(alleles[:9], 7)
    kept = np.zeros(60, dtype=bool)
    kept[np.flatnonzero(keep)[half]] = True
    ids, distances = brute_force(alleles, alleles[:9], a & b, 7, keep=kept)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.distances, distances)


def test_a_masked_copy_is_not_mistaken_for_the_alleles():
    whole = BinaryIndex.build(mosaic(6, 20), 20)
    masked = whole.masked(np.arange(20) < 10)
    for misuse in (
        lambda: masked.alleles(np.arange(3)),
        masked.to_bytes,
        lambda: BinaryIndex.join([whole, masked]),
        lambda: BinaryIndex.join([masked]),
    ):
        with pytest.raises(ValueError, match="masked copy"):
            misuse()


def test_the_matrix_product_is_exact_at_any_precision_setting():
    """Inside the training loop's autocast, sums above 256 used to be rounded to bf16."""
    alleles = np.random.default_rng(0).integers(0, 2, (300, 1533)).astype(np.uint8)
    index = BinaryIndex.build(alleles, 1533)
    exact = index.search(alleles, 300)
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            with torch.autocast("cpu", torch.bfloat16):
                found = index.search(alleles, 300, device="cpu:0")
            np.testing.assert_array_equal(found.ids, exact.ids)
            np.testing.assert_array_equal(found.distances, exact.distances)
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_embedding_that_does_not_tell_ref_from_alt_is_refused():
    class Constant:
        fingerprint = "none"

        def __call__(self, tokens, af):
            return np.ones((*tokens.shape, 4), dtype=np.float32)

    alleles, af = mosaic(20, 30), np.full(30, 0.3, dtype=np.float32)
    index = EmbeddingIndex.build(alleles, np.ones(30, dtype=bool), af, Constant(), 32)
    with pytest.raises(WorkError, match="does not tell REF from ALT"):
        index.search(alleles[:1], 1)


class Additive:
    """Token + sinusoidal position + a random vector per site, at very different scales."""

    fingerprint = "additive"

    def __init__(self, length, dims, token_scale, seed):
        generator = np.random.default_rng(seed)
        self.table = (token_scale * generator.normal(size=(5, dims))).astype(np.float32)
        angle = np.arange(length)[:, None] / 10_000 ** (np.arange(dims) / dims)
        site = generator.normal(size=(length, dims))
        self.rest = (np.sin(angle) + site).astype(np.float32)

    def __call__(self, tokens, af):
        return self.table[tokens] + self.rest + af[:, None]


@pytest.mark.parametrize("token_scale", [0.01, 1.0, 30.0])
def test_distances_are_exact_whatever_the_weights(token_scale):
    alleles = mosaic(120, 500)
    af = np.random.default_rng(5).random(500).astype(np.float32)
    observed = np.random.default_rng(6).random(500) < 0.7
    exact = BinaryIndex.build(alleles, 500).masked(observed).search(alleles[:20], 32)
    weights = Additive(512, 24, token_scale, 7)
    floats = EmbeddingIndex.build(alleles, observed, af, weights, 512).search(alleles[:20], 32)
    np.testing.assert_array_equal(exact.distances, floats.distances)


@pytest.mark.parametrize("kind", ["binary", "embedding"])
def test_a_damaged_file_is_an_error_never_a_crash_nor_a_huge_allocation(kind, tmp_path):
    alleles, af = mosaic(12, 20), np.full(20, 0.3, dtype=np.float32)
    observed = np.ones(20, dtype=bool)
    index = BinaryIndex.build(alleles, 20)
    if kind == "embedding":
        index = EmbeddingIndex.build(alleles, observed, af, embedder(0, 32), 32)
    data, path = index.to_bytes(), tmp_path / "index_0.faiss"
    refused = 0
    for position in range(45):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            try:
                read_faiss(bytes(damaged), kind, path)
            except InputError:
                refused += 1
    assert refused > 100
    for damaged in (b"", data[:20], data[:-1], data + b"x"):
        with pytest.raises(InputError, match=r"index_0\.faiss"):
            read_faiss(damaged, kind, path)
    other = "binary" if kind == "embedding" else "embedding"
    with pytest.raises(InputError, match=f"no {other} index"):
        read_faiss(data, other, path)


@pytest.mark.parametrize("sites", [1, 7, 8, 511])
def test_alleles_by_site_give_the_index_of_alleles_by_haplotype(sites):
    alleles = np.random.default_rng(sites).integers(0, 2, (21, sites)).astype(np.uint8)
    index = BinaryIndex.of_sites(np.ascontiguousarray(alleles.T), 511)
    np.testing.assert_array_equal(index.codes, BinaryIndex.build(alleles, 511).codes)
    chosen = np.array([3, 20, 0])
    np.testing.assert_array_equal(index.by_site(chosen), alleles[chosen].T)
