"""Imputed file and truth are read in step, whatever the order of their records."""

import tracemalloc

import numpy as np
import pytest
from helpers_vcf import write_vcf_rows

from snvrag import pairing
from snvrag.conversion import convert
from snvrag.errors import InputError
from snvrag.evaluation import evaluate

PEOPLE = ["A", "B", "C"]
CONTIGS = ("2", "10")
PANEL = [
    "2 100 A C 0|1 1|1 0|0",
    "2 200 A C 0|0 0|1 0|0",
    "2 200 A G 0|1 0|0 0|1",
    "2 300 A C 1|1 1|1 0|1",
    "10 50 A C 0|1 0|0 0|0",
    "10 60 A C 0|1 0|1 0|1",
]
IMPUTED = [row.replace("1|1", "0|1") for row in PANEL]


@pytest.fixture
def folder(tmp_path):
    write_vcf_rows(tmp_path / "truth.vcf", PANEL, PEOPLE, CONTIGS)
    convert(tmp_path / "truth.vcf", tmp_path / "panel.h5")
    (tmp_path / "observed.txt").write_text("2 100\n")
    return tmp_path


def figures(folder, imputed, truth):
    write_vcf_rows(folder / "i.vcf", imputed, PEOPLE, CONTIGS)
    write_vcf_rows(folder / "t.vcf", truth, PEOPLE, CONTIGS)
    files = (folder / "i.vcf", folder / "t.vcf", folder / "panel.h5")
    found = evaluate(*files, observed=folder / "observed.txt")
    table = found.sites.table
    return found.as_json(), [table.key(row) for row in range(len(table))]


SWAPPED = [0, 2, 1, 3, 4, 5]
OTHER_CHROMOSOMES = [4, 5, 0, 1, 2, 3]
ANY = [5, 3, 0, 2, 4, 1]


@pytest.mark.parametrize("of_truth", [range(6), SWAPPED, OTHER_CHROMOSOMES, ANY])
@pytest.mark.parametrize("of_imputed", [range(6), SWAPPED, OTHER_CHROMOSOMES, ANY])
def test_the_order_of_records_changes_no_figure(folder, monkeypatch, of_truth, of_imputed):
    expected, keys = figures(folder, IMPUTED, PANEL)
    assert keys == [":".join(row.split()[:4]) for row in PANEL[1:]]
    assert expected["all"]["n_sites"] == 5
    assert expected["all"]["concordance"] == pytest.approx(13 / 15)
    # A block ends within a position, too.
    monkeypatch.setattr(pairing, "_BLOCK_GENOTYPES", 2 * len(PEOPLE))
    found, keys = figures(folder, [IMPUTED[i] for i in of_imputed], [PANEL[i] for i in of_truth])
    assert keys == [":".join(PANEL[i].split()[:4]) for i in of_imputed if i]
    for name in ("bins", "all", "samples", "calibration"):
        assert str(found[name]) == str(expected[name])


def test_only_files_out_of_order_take_the_memory_of_a_whole_truth(folder, monkeypatch):
    kept = []

    class Counted(pairing._Truth):
        def _advance(self, first):
            super()._advance(first)
            kept.append(len(self._held))

    monkeypatch.setattr(pairing, "_Truth", Counted)
    figures(folder, IMPUTED, [PANEL[i] for i in SWAPPED])
    assert max(kept) == 2
    figures(folder, IMPUTED, [PANEL[i] for i in OTHER_CHROMOSOMES])
    assert max(kept) == 5


@pytest.mark.parametrize("order", [range(6), ANY])
def test_what_is_lacking_or_comes_twice_is_named_in_any_order(folder, order):
    imputed = [IMPUTED[i] for i in order]
    with pytest.raises(InputError, match="lacks the masked site 2:200:A:G, and 1 more"):
        figures(folder, [x for x in imputed if x not in (IMPUTED[2], IMPUTED[5])], PANEL)
    with pytest.raises(InputError, match=r"more than one record (2|10):"):
        figures(folder, [*imputed, imputed[-1]], PANEL)
    # Records of sites that the truth or the panel lacks are passed over.
    other = "10 70 A C 0|0 0|0 0|0"
    data, _ = figures(folder, [*imputed, other], [PANEL[i] for i in order if i != 4])
    assert data["all"]["n_sites"] == 4


def test_memory_does_not_grow_with_sites_times_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(pairing, "_BLOCK_GENOTYPES", 1 << 13)
    n_samples, counts = 400, (150, 750)
    people = [f"S{i}" for i in range(n_samples)]
    generator = np.random.default_rng(0)
    (tmp_path / "observed.txt").write_text("20 1\n")
    peaks = []
    for n_sites in (counts[0], *counts):
        calls = generator.choice(["0|0", "0|1", "1|1"], (n_sites, n_samples))
        sites = [f"20 {100 + i} A C" for i in range(n_sites)]
        rows = [f"{site} {' '.join(own)}" for site, own in zip(sites, calls, strict=True)]
        truth = write_vcf_rows(tmp_path / "t.vcf", rows, people)
        source = write_vcf_rows(
            tmp_path / "p.vcf", [f"{site} 0|1 0|0" for site in sites], ["P", "Q"]
        )
        convert(source, tmp_path / "p.h5", force=True)
        tracemalloc.start()
        found = evaluate(truth, truth, tmp_path / "p.h5", observed=tmp_path / "observed.txt")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.all.n_genotypes == n_sites * n_samples
    added = (counts[1] - counts[0]) * n_samples
    assert peaks[2] - peaks[1] < 1.5 * added, peaks
