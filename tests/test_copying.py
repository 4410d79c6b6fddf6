import os
import shutil
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import mosaic

from snvrag.copying import (
    DEFAULT_BANK,
    Reference,
    copying_evidence,
    copying_probability,
    genetic_coordinate,
    kernels,
    mismatch_probability,
)


def related(alleles, columns, calls, cm):
    """π of each site by the longest runs of identity within cells of 1 cM: float64 [sites, n]."""
    n, n_sites = alleles.shape
    cells = np.floor(cm[columns]).astype(int)
    longest = {}
    for cell in np.unique(cells):
        ends = max(cell, cm[0]), min(cell + 1, cm[-1])
        inside = columns[cells == cell]
        errs = alleles[:, inside] != calls[cells == cell]
        places = [[ends[0], *cm[inside[row]], ends[1]] for row in errs]
        longest[cell] = np.array([np.diff(row).max() for row in places])
    nothing = np.zeros(n)
    scores = {c: sum(longest.get(c + d, nothing) for d in (-1, 0, 1)) for c in longest}
    # A switch between two observed sites goes by the cell of the second.
    right = np.minimum(np.searchsorted(columns, np.arange(n_sites)), len(columns) - 1)
    prior = np.maximum([scores[c] for c in cells[right]], 0.02) ** 3
    return prior / prior.sum(axis=1, keepdims=True)


def oracle(alleles, observed, targets, cm, bp, rate, error, kept=None):
    """Forward-backward over ALL sites, masked ones with emission 1: the textbook HMM, float64."""
    n, n_sites = alleles.shape
    error = mismatch_probability(error, n)
    g = genetic_coordinate(cm, bp, rate, n)
    columns = np.flatnonzero(observed)
    result = np.empty((len(targets), n_sites))
    for t, calls in enumerate(targets):
        states = np.arange(n) if kept is None else np.flatnonzero(kept[t])
        prior = np.full((n_sites, len(states)), 1.0 / len(states))
        if len(states) > 1_000:
            prior = related(alleles, columns, calls, cm)
        emission = np.ones((n_sites, len(states)))
        for j, column in enumerate(columns):
            if calls[j] >= 0:
                same = alleles[states, column] == calls[j]
                emission[column] = np.where(same, 1 - error, error)
        forward = np.empty((n_sites, len(states)))
        forward[0] = prior[0] * emission[0]
        forward[0] /= forward[0].sum()
        for site in range(1, n_sites):
            switch = 1 - np.exp(g[site - 1] - g[site])
            forward[site] = ((1 - switch) * forward[site - 1] + switch * prior[site]) * emission[
                site
            ]
            forward[site] /= forward[site].sum()
        backward = np.ones((n_sites, len(states)))
        for site in range(n_sites - 2, -1, -1):
            switch = 1 - np.exp(g[site] - g[site + 1])
            ahead = backward[site + 1] * emission[site + 1]
            backward[site] = (1 - switch) * ahead + switch * (prior[site + 1] * ahead).sum()
            backward[site] /= backward[site].mean()
        posterior = forward * backward
        posterior /= posterior.sum(axis=1, keepdims=True)
        result[t] = (posterior * alleles[states].T).sum(axis=1)
        called = columns[calls >= 0]
        result[t, called] = calls[calls >= 0]
    return result


def make_case(seed, n=30, sites=80, targets=5, rate=0.3, missing=0.0):
    generator = np.random.default_rng(seed)
    alleles = mosaic(n, sites, seed=seed)
    truth = mosaic(targets, sites, seed=seed)
    observed = generator.random(sites) < rate
    calls = truth[:, observed].astype(np.int8)
    calls[generator.random(calls.shape) < missing] = -1
    cm = np.cumsum(generator.random(sites) * 0.02)
    bp = np.cumsum(generator.integers(1, 3000, sites))
    return alleles, observed, calls, cm, bp


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rate", [0.03, 0.3, 1.0])
def test_agrees_with_the_exact_hmm_over_all_sites(seed, rate):
    alleles, observed, calls, cm, bp = make_case(seed, rate=rate, missing=0.1)
    bank = ((2.0, 0.003), (24.0, 0.02))
    found = copying_probability(Reference.of(alleles, observed), calls, cm, bp, bank=bank)
    expected = np.mean([oracle(alleles, observed, calls, cm, bp, c, e) for c, e in bank], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def excluded(kept):
    """Haplotype numbers that are not ``kept`` bool [T, n], filled up with -1."""
    rows = [np.flatnonzero(~row) for row in kept]
    table = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for row, numbers in zip(table, rows, strict=True):
        row[: len(numbers)] = numbers
    return table


@pytest.mark.parametrize("n", [1, 7, 8, 300, 2_051, 6_000])
def test_sites_where_a_haplotype_carries_the_minor_allele_are_listed_by_segment(n):
    """Also where a row is no whole number of words, and of more than 255 of them."""
    generator = np.random.default_rng(n)
    frequency = generator.choice([0.0, 0.001, 0.5, 0.97, 1.0], 40)
    alleles = (generator.random((n, 40)) < frequency).astype(np.uint8)
    judges = generator.random(n) < 0.7
    for some in (None, judges):
        deciding = alleles if some is None else alleles[some]
        minor_is_alt = 2 * deciding.sum(axis=0, dtype=int) <= len(deciding)
        carried = (alleles == minor_is_alt).T
        by_site, observed = alleles.T.copy(), np.array([2, 9, 10, 33, 60])
        at_observed = np.zeros((5, n), dtype=np.uint8)
        pieces = [by_site[:1], by_site[1:30], by_site[30:]]
        found = Reference.of_core(pieces, 8, observed, at_observed, some)
        np.testing.assert_array_equal(found.minor_is_alt, minor_is_alt)
        np.testing.assert_array_equal(found.count, carried.sum(axis=1))
        np.testing.assert_array_equal(found.edges, [0, 1, 2, 25, 40])
        for segment, (begin, end) in enumerate(pairwise(found.edges)):
            for h in range(n):
                own = found.sites[slice(*found.first[segment, h : h + 2])]
                np.testing.assert_array_equal(own, begin + np.flatnonzero(carried[begin:end, h]))


def test_a_subset_of_states_is_the_hmm_of_that_subset():
    alleles, observed, calls, cm, bp = make_case(3)
    kept = np.random.default_rng(0).random((len(calls), len(alleles))) < 0.4
    bank = ((8.0, 0.003),)
    # The switch rate is scaled by the whole panel, whatever the states.
    found = copying_probability(
        Reference.of(alleles, observed), calls, cm, bp, exclude=excluded(kept), bank=bank
    )
    expected = oracle(alleles, observed, calls, cm, bp, 8.0, 0.003, kept)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_any_observed_site_the_frequency_is_left():
    alleles, observed, calls, cm, bp = make_case(4)
    nothing = np.zeros_like(observed)
    found = copying_probability(Reference.of(alleles, nothing), calls[:, :0], cm, bp)
    np.testing.assert_allclose(found, np.tile(alleles.mean(0), (len(calls), 1)), atol=1e-6)


def test_a_long_chain_does_not_underflow():
    alleles, observed, calls, cm, bp = make_case(5, n=40, sites=4000, targets=2, rate=0.9)
    # Noise at every tenth call: thousands of mismatches in a row for most states.
    calls[:, ::10] = 1 - calls[:, ::10]
    found = copying_probability(Reference.of(alleles, observed), calls, cm, bp)
    assert np.isfinite(found).all()
    assert found.min() >= -1e-6
    assert found.max() <= 1 + 1e-5


def test_results_do_not_depend_on_the_batch():
    alleles, observed, calls, cm, bp = make_case(6, targets=8)
    reference = Reference.of(alleles, observed)
    whole = copying_probability(reference, calls, cm, bp)
    alone = np.concatenate([copying_probability(reference, c[None], cm, bp) for c in calls])
    np.testing.assert_array_equal(whole, alone)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_large_panels_look_at_the_likely_states_only_and_lose_nothing_of_note(share):
    """Above 1,000 states the carriers of common alleles are summed over the likely states."""
    alleles = mosaic(1_210, 160, founders=40, seed=3, switch_rate=0.02)
    reference, queries = alleles[:1_206], alleles[1_206:].astype(np.int8)
    observed = np.random.default_rng(1).random(160) < share
    cm, bp = np.arange(160) * 0.02, np.arange(160, dtype=np.int64) * 2_000
    found = copying_probability(Reference.of(reference, observed), queries[:, observed], cm, bp)
    expected = np.mean(
        [
            oracle(reference, observed, queries[:, observed], cm, bp, rate, error)
            for rate, error in DEFAULT_BANK
        ],
        axis=0,
    )
    difference = np.abs(found - expected)[:, ~observed]
    assert difference.max() < 0.01
    assert difference.mean() < 5e-4


def test_a_core_gets_what_the_whole_context_gives_it():
    alleles, observed, calls, cm, bp = make_case(11, missing=0.2)
    whole = copying_probability(Reference.of(alleles, observed), calls, cm, bp)
    columns = np.flatnonzero(observed)
    at_observed = np.ascontiguousarray(alleles[:, columns].T)
    for start, end in ((0, 80), (0, 20), (30, 55), (79, 80)):
        part = Reference.of_core([alleles.T[start:end].copy()], start, columns, at_observed)
        found = copying_probability(part, calls, cm, bp)
        np.testing.assert_allclose(found, whole[:, start:end], atol=1e-6)


def test_own_haplotypes_do_not_answer_for_themselves():
    """A target that is in the panel is imputed as if it were not."""
    alleles, observed, _, cm, bp = make_case(9)
    calls = alleles[:4, observed].astype(np.int8)
    reference = Reference.of(alleles, observed)
    own = np.arange(4)[:, None]
    before = copying_probability(reference, calls, cm, bp, exclude=own)
    changed = alleles.copy()
    changed[0, ~observed] ^= 1
    other = Reference.of(changed, observed)
    after = copying_probability(other, calls, cm, bp, exclude=own)
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)
    assert not np.allclose(before[1:], after[1:], atol=1e-6)


def test_the_genetic_coordinate_always_increases():
    g = genetic_coordinate(np.zeros(3), np.array([5, 5, 5]), 8.0, 480)
    assert (np.diff(g) > 0).all()


def test_a_target_in_a_large_panel_is_not_told_by_its_own_hidden_alleles():
    """Carriers that were not picked share the rest; the own haplotypes are none of them."""
    alleles = mosaic(1_400, 120, founders=40, seed=5, switch_rate=0.02)
    observed = np.arange(120) % 6 == 0
    cm, bp = np.arange(120) * 0.02, np.arange(120, dtype=np.int64) * 2_000
    own = np.array([[0, 1], [0, 1]])
    calls = alleles[:2, observed].astype(np.int8)
    judges = np.arange(1_400) > 1
    columns = np.flatnonzero(observed)
    found = []
    for flip in (False, True):
        changed = alleles.copy()
        if flip:
            changed[np.ix_([0, 1], np.flatnonzero(~observed))] ^= 1
        at_observed = np.ascontiguousarray(changed[:, columns].T)
        reference = Reference.of_core([changed.T.copy()], 0, columns, at_observed, judges)
        found.append(copying_probability(reference, calls, cm, bp, exclude=own))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_sums_over_very_many_haplotypes_stay_probabilities():
    """60,000 float32 terms add up to a little more than their total."""
    n = 60_000
    alleles = np.zeros((n, 12), dtype=np.uint8)
    alleles[:5_000, 3:9] = 1
    alleles[::7, 10] = 1
    observed = np.array([0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1], dtype=bool)
    cm, bp = np.arange(12) * 0.001, np.arange(12, dtype=np.int64) * 1_000
    calls = alleles[[0, 20_001]][:, observed].astype(np.int8)
    p = copying_probability(Reference.of(alleles, observed), calls, cm, bp)
    assert p.min() >= 0
    assert p.max() <= 1
    assert p[0, 5] > 0.99
    assert p[1, 5] < 0.01


def test_nobody_to_copy_from_gives_the_major_allele():
    alleles = mosaic(2, 20)
    observed = np.arange(20) % 4 == 0
    cm, bp = np.arange(20) * 0.01, np.arange(20, dtype=np.int64) * 1_000
    own = np.array([[0, 1]])
    reference = Reference.of(alleles, observed)
    calls = alleles[:1, observed].astype(np.int8)
    minor = copying_probability(reference, calls, cm, bp, exclude=own)[0] == reference.minor_is_alt
    assert not minor[~observed].any()
    evidence = copying_evidence(reference, calls, cm, bp, exclude=own)
    assert (evidence[..., 0] < -9).all()


def test_other_threads_go_on_while_the_kernels_run():
    """A worker process notices in one that nobody leads it any more."""
    alleles, observed, calls, cm, bp = make_case(2, n=900, sites=4_000, targets=60, rate=0.5)
    reference = Reference.of(alleles, observed)
    copying_probability(reference, calls[:1], cm, bp)
    began = time.monotonic()
    thread = threading.Thread(target=copying_probability, args=(reference, calls, cm, bp))
    thread.start()
    longest, before = 0.0, time.monotonic()
    while thread.is_alive():
        time.sleep(0.001)
        now = time.monotonic()
        longest, before = max(longest, now - before), now
    assert longest < 0.5 * (time.monotonic() - began)


def test_an_installation_without_a_place_for_compiled_code_works(tmp_path):
    package = tmp_path / "snvrag"
    shutil.copytree(
        Path(kernels.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__")
    )
    # Read-only for root too, whom modes do not stop.
    (package / "copying" / "__pycache__").touch()
    names = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONPATH": str(tmp_path)}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    code = "from snvrag.copying import describing as d; print(d._log(1.0, 0.0), d.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**kept, **names},
        cwd=tmp_path,
    )
    assert done.stdout.split() == ["0.0", str(package / "copying" / "describing.py")]
    assert done.stderr.count("NUMBA_CACHE_DIR") == 1


def test_compiled_code_of_other_sources_is_dropped_wherever_it_is_kept(tmp_path):
    package = tmp_path / "snvrag"
    shutil.copytree(
        Path(kernels.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__")
    )
    names = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    code = (
        "import numpy as np; from snvrag.copying import perceptron as p; "
        "out = np.zeros((1, 4), np.float32); one = np.ones((1, 4), np.float32); "
        "p._layer(one, np.ones((1, 1), np.float32), np.zeros(1, np.float32), out, True); "
        "print(out[0, 0])"
    )

    def result():
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **names},
            cwd=tmp_path,
        )
        return float(done.stdout)

    assert result() == pytest.approx(0.8412, abs=1e-3)
    assert list((tmp_path / "cache").rglob("*.nbi"))
    # The function that is called stands in its caller's file: only the digest tells it apart.
    source = package / "copying" / "describing.py"
    source.write_text(source.read_text() + "\n# another\n")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.nbi")}
    assert result() == pytest.approx(0.8412, abs=1e-3)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.nbi")}
    assert all(after[path] > time for path, time in before.items())
    assert result() == pytest.approx(0.8412, abs=1e-3)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.nbi")} == after
