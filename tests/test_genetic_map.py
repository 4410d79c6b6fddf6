import gzip

import numpy as np
import pytest

from snvrag.errors import InputError
from snvrag.genetic_map import GeneticMap

FORMS = {
    "plink": "20 . 1.0 1000\n20 rs2 2.0 2000\n20 . 2.5 4000\n",
    "shapeit": "pos chr cM\n1000 20 1.0\n2000 20 2.0\n4000 20 2.5\n",
    "minimac4": "#chrom\tpos\tcM\n20\t1000\t1.0\n20\t2000\t2.0\n20\t4000\t2.5\n",
    "eagle": (
        "chr position COMBINED_rate(cM/Mb) Genetic_Map(cM)\n20 1000 1.0 1.0\n20 2000 9 2.0\n"
        "20 4000 9 2.5\n"
    ),
    "bare": "20 1000 1.0\n20 2000 2.0\n20 4000 2.5\n",
    "no chromosome": "position cM\n1000 1.0\n2000 2.0\n4000 2.5\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chrom", ["20", "chr20"])
def test_every_form_reads_alike(tmp_path, form, chrom):
    path = tmp_path / "map"
    path.write_text(FORMS[form])
    cm = GeneticMap.read(path).centimorgans(chrom, np.array([1000, 1500, 3000, 4000]))
    np.testing.assert_allclose(cm, [1.0, 1.5, 2.25, 2.5])


def test_compressed_maps_read_alike_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "map.gz"
    data = gzip.compress(FORMS["shapeit"].encode())
    path.write_bytes(data)
    cm = GeneticMap.read(path).centimorgans("20", np.array([1500]))
    np.testing.assert_allclose(cm, [1.5])
    path.write_bytes(data[:-12])
    with pytest.raises(InputError, match="damaged gzip"):
        GeneticMap.read(path)
    path.write_bytes(b"\x00\xff\xfe")
    with pytest.raises(InputError, match="is not text"):
        GeneticMap.read(path)


@pytest.mark.parametrize("line", ["20 . 1.5 1500\f20 . 1.6 1600", "20 . 1.5", "20 . 1.5 1500 7"])
def test_a_line_of_other_columns_is_no_point(tmp_path, line):
    """A point that is lost in the line before would be missed by nobody."""
    path = tmp_path / "map"
    path.write_text(f"20 . 1.0 1000\n{line}\n20 . 2.0 2000\n")
    with pytest.raises(InputError, match=r"line 2: .* is no point of a map"):
        GeneticMap.read(path)


def test_several_points_at_one_position_are_taken(tmp_path):
    """Minimac4 stops on them with an assertion; real maps have them."""
    path = tmp_path / "map"
    path.write_text("20 . 1.0 1000\n20 . 1.2 1000\n20 . 1.2 2000\n20 . 1.2 3000\n20 . 2.2 4000\n")
    cm = GeneticMap.read(path).centimorgans("20", np.array([500, 1000, 1500, 2500, 3500, 4500]))
    assert (np.diff(cm) >= 0).all()
    assert 1.0 <= cm[1] <= 1.2
    np.testing.assert_allclose(cm[2:5], [1.2, 1.2, 1.7])


def test_beyond_the_ends_one_centimorgan_per_megabase(tmp_path):
    path = tmp_path / "map"
    path.write_text(FORMS["plink"])
    cm = GeneticMap.read(path).centimorgans("20", np.array([0, 1_004_000]))
    np.testing.assert_allclose(cm, [1.0 - 0.001, 3.5])


def test_without_a_map_one_centimorgan_per_megabase():
    cm = GeneticMap.uniform().centimorgans("7", np.array([0, 2_000_000]))
    np.testing.assert_allclose(cm, [0.0, 2.0])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("20 . 2.0 1000\n20 . 1.0 2000\n", "line 2"),
        ("20 . 1.0 2000\n20 . 2.0 1000\n", "line 2"),
        ("20 . 1.0 1000\n20 . x 2000\n", "line 2"),
        ("20 . nan 1000\n", "line 1"),
        ("1000 2\n", "columns"),
        ("some header here\n", "header"),
    ],
)
def test_bad_maps_name_the_line(tmp_path, text, word):
    path = tmp_path / "map"
    path.write_text(text)
    with pytest.raises(InputError, match=word):
        GeneticMap.read(path)


def test_a_map_of_another_chromosome_is_refused(tmp_path):
    path = tmp_path / "map"
    path.write_text(FORMS["plink"])
    with pytest.raises(InputError, match="no chromosome 21"):
        GeneticMap.read(path).centimorgans("21", np.array([5]))
    with pytest.raises(InputError, match="absent"):
        GeneticMap.read(tmp_path / "absent")


def test_the_two_real_maps_agree(dev_folder):
    positions = np.arange(1_000_000, 4_000_000, 997)
    maps = [GeneticMap.read(dev_folder.parent / f"map.{n}") for n in ("plink.map", "minimac4.txt")]
    a, b = (m.centimorgans("20", positions) for m in maps)
    np.testing.assert_allclose(a, b, atol=1e-5)
