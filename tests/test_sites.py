import numpy as np
import pytest

from snvrag.errors import InputError, UsageError
from snvrag.sites import (
    Region,
    SiteTable,
    parse_regions,
    read_regions_file,
    read_site_list,
    rows_listed,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chr20", [Region("chr20")]),
        ("20:5", [Region("20", 5, 5)]),
        ("20:5-9", [Region("20", 5, 9)]),
        ("20:5-", [Region("20", 5, None)]),
        ("20:5-9, 21", [Region("20", 5, 9), Region("21")]),
        ("HLA:01:5-9", [Region("HLA:01", 5, 9)]),
    ],
)
def test_regions_read_as_bcftools_reads_them(text, expected):
    assert parse_regions(text) == expected


@pytest.mark.parametrize(
    "text", ["", "20:", "20:a-b", "20:9-5", ":5-9", "20:0-5", "20:5-x", "a,,b"]
)
def test_malformed_regions_are_refused(text):
    with pytest.raises(UsageError, match="--region"):
        parse_regions(text)


def test_a_region_includes_both_ends():
    region = Region("20", 5, 9)
    inside = [p for p in range(3, 12) if region.contains("20", p)]
    assert inside == [5, 6, 7, 8, 9]
    assert not region.contains("21", 7)
    assert str(region) == "20:5-9"
    assert (str(Region("20")), str(Region("20", 7))) == ("20", "20:7-")


def test_region_files_are_one_based_unless_bed(tmp_path):
    for name, first in (("r.txt", 5), ("r.bed", 6)):
        path = tmp_path / name
        path.write_text("# comment\n20\t5\t9\n\n21\n")
        assert read_regions_file(path) == [Region("20", first, 9), Region("21")]


@pytest.mark.parametrize("text", ["", "20\tx\t9\n", "20\t5\ty\n"])
def test_malformed_region_files_name_file_and_line(tmp_path, text):
    path = tmp_path / "r.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"r\.txt"):
        read_regions_file(path)
    with pytest.raises(InputError, match="absent"):
        read_regions_file(tmp_path / "absent")


def test_site_table():
    def text(*values):
        return np.array(values)

    table = SiteTable(
        text("1", "1", "2"),
        np.array([5, 9, 2]),
        text(".", "rs1", "."),
        text("A", "C", "G"),
        text("T", "G", "A"),
    )
    assert len(table) == 3
    assert table.key(1) == "1:9:C:G"
    assert table.chromosomes() == [("1", 0, 2), ("2", 2, 3)]


def table(*rows):
    chrom, pos, ref, alt = zip(*rows, strict=True)
    return SiteTable(
        np.array(chrom),
        np.array(pos, dtype=np.int64),
        np.full(len(pos), "."),
        np.array(ref),
        np.array(alt),
    )


def test_site_lists_are_chrom_and_pos_in_each_line(tmp_path):
    path = tmp_path / "array.txt"
    path.write_text("#CHROM\tPOS\tID\n20\t5\trs1\n\n21  7\n")
    sites = read_site_list(path)
    assert (sites.chrom.tolist(), sites.pos.tolist()) == (["20", "21"], [5, 7])
    for text in ("20\n", "20\tx\n", "20\t-5\n", f"20\t{10**30}\n"):
        path.write_text("20\t5\n" + text)
        with pytest.raises(InputError, match="line 2"):
            read_site_list(path)
    path.write_text("#CHROM\tPOS\n")
    with pytest.raises(InputError, match="lists no site"):
        read_site_list(path)


def test_listed_sites_are_found_by_place_and_by_alleles_where_given(tmp_path):
    panel = table(
        ("chr20", 5, "A", "C"),
        ("chr20", 7, "A", "C"),
        ("chr20", 7, "A", "G"),
        ("chr21", 5, "A", "C"),
        ("chr21", 9, "A", "C"),
        ("chr21", 11, "A", "C"),
    )
    path = tmp_path / "array.txt"
    path.write_text("20 7\nchr21 5\n22 9\n20 6\n")
    found = rows_listed(panel, read_site_list(path))
    assert found.tolist() == [False, True, True, True, False, False]
    with_alleles = table(
        ("20", 7, "A", "G"), ("21", 9, "C", "A"), ("20", 5, "A", "T"), ("21", 11, "A", "")
    )
    found = rows_listed(panel, with_alleles)
    assert found.tolist() == [False, False, True, False, True, True]
