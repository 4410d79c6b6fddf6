"""Damaged input that was once read wrongly, and a part of the corpus; ``make corpus`` runs all."""

import gzip
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import corpus_mutations as mutations
import h5py
import numpy as np
import pytest
from conftest import mosaic, write_vcf
from helpers_vcf import BGZF_EOF, bgzip, block

from snvrag.config import run_config
from snvrag.conversion import convert
from snvrag.errors import InputError, MismatchError, UsageError
from snvrag.genetic_map import GeneticMap
from snvrag.index_store import build_index
from snvrag.panel import Panel
from snvrag.provenance import read_lines
from snvrag.trained_run import load_run
from snvrag.vcf import DosageReader, GenotypeReader, bcf, genotypes
from snvrag.verification import verify
from snvrag.workdir import read_part, write_part

HARMLESS = {"rlen 2^31 - 1", "allele byte 0x5"}


@pytest.mark.external
def test_a_part_of_the_corpus(tmp_path):
    if shutil.which("bcftools") is None:
        pytest.skip("bcftools is not installed")
    words = [sys.executable, str(Path(__file__).with_name("corpus.py")), "--short"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def source(tmp_path):
    return write_vcf(tmp_path / "p.vcf", mosaic(8, 40))


def refused(path, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        convert(path, tmp_path / "o.h5")
    assert not (tmp_path / "o.h5").exists()


def change(path, column, value, row=10):
    lines = path.read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if not line.startswith("#")) + row
    fields = lines[at].split("\t")
    fields[column] = value
    lines[at] = "\t".join(fields)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("allele", [2, 127, 128, 256, 32_768, 65_536, 65_537, 2**20])
@pytest.mark.parametrize("read", ["htslib", "text"])
def test_no_allele_becomes_another_by_its_size(source, tmp_path, monkeypatch, allele, read):
    """Kept in 8 bits, allele 256 was REF; cyvcf2 keeps 16."""
    if read == "text":
        monkeypatch.setattr(genotypes, "_MIN_TEXT_BYTES", 1)
    change(source, 10, f"{allele}|1")
    refused(source, f"20:200: sample S1 has allele {allele},", tmp_path)
    with pytest.raises(InputError, match="has allele"), DosageReader(source) as reader:
        list(reader)


@pytest.mark.parametrize("cell", ["0|1\t1|1", "0\t1", "0|1\x00", "0\x00|1"])
def test_a_line_of_too_many_columns_or_with_nul_is_damaged(source, tmp_path, cell):
    """Htslib passes over what is behind the last sample, and over what is behind NUL."""
    change(source, 10, cell)
    refused(source, r"damaged after record 10 \(20:190\)", tmp_path)
    with pytest.raises(InputError, match="damaged after record 10"), DosageReader(source) as reader:
        list(reader)


@pytest.mark.parametrize(("column", "value"), [(1, ""), (1, "x"), (4, "\udce9")])
def test_a_record_without_position_or_of_no_text_is_damaged(source, tmp_path, column, value):
    lines = source.read_text().split("\n")
    fields = lines[-3].split("\t")
    fields[column] = value
    lines[-3] = "\t".join(fields)
    source.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    refused(source, "damaged after record 38", tmp_path)
    with pytest.raises(InputError, match="damaged after record 38"), DosageReader(source) as reader:
        list(reader)


def test_lines_too_short_are_still_told_by_htslib(source, tmp_path):
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:-3], lines[-3].rpartition("\t")[0], *lines[-2:]]) + "\n")
    refused(source, "damaged after record 37", tmp_path)


def test_a_size_of_a_block_that_lies_is_damage(source, tmp_path):
    """Htslib checks the checksum of a block alone."""
    text = source.read_bytes()
    blocks = [block(text[i : i + 500]) for i in range(0, len(text), 500)]
    blocks[3] = blocks[3][:-4] + struct.pack("<I", 501)
    path = tmp_path / "p.vcf.gz"
    path.write_bytes(b"".join(blocks) + BGZF_EOF)
    refused(path, r"p\.vcf\.gz: damaged after record \d+", tmp_path)


def test_one_file_behind_another_is_no_file(source, tmp_path):
    """The second header's lines were read as records, which ended the process."""
    path = tmp_path / "p.vcf.gz"
    path.write_bytes(2 * bgzip(source.read_bytes()))
    refused(path, r"damaged after record 40", tmp_path)


def test_no_line_is_so_long_that_it_takes_the_memory(source, tmp_path, monkeypatch):
    monkeypatch.setattr("snvrag.vcf.soundness.most_bytes", lambda n: 1 << 20)
    lines = source.read_text().split("\n")
    head = "\n".join(lines[:8]) + "\n"
    path = tmp_path / "p.vcf.gz"
    long = block(b"C" * 65_280) * 20
    start = bgzip((head + "20\t900\t.\tA\t").encode()).removesuffix(BGZF_EOF)
    path.write_bytes(start + long + bgzip(b"\n"))
    refused(path, "damaged after record", tmp_path)


@pytest.fixture
def binary(source, tmp_path):
    if shutil.which("bcftools") is None:
        pytest.skip("bcftools is not installed")
    mutations.bcf_of(source, tmp_path / "p.bcf")
    return tmp_path / "p.bcf"


@pytest.mark.external
@pytest.mark.parametrize("name", mutations.BCF)
def test_bcf_that_lies_is_told_before_htslib_reads_it(binary, tmp_path, name):
    """It ended the process by a signal or by exit(1), or gave other genotypes."""
    data = mutations.BCF[name](binary.read_bytes(), mutations.random.Random(0))
    sound = binary.read_bytes()
    binary.write_bytes(data)
    if gzip.decompress(data) == gzip.decompress(sound):
        pytest.skip("is what was there")
    done = subprocess.run(["bcftools", "view", binary], capture_output=True, check=False)
    if name in HARMLESS:
        # No number of use changed, and bcftools reads it without a word.
        assert (done.returncode, done.stderr) == (0, b"")
        convert(binary, tmp_path / "o.h5")
    else:
        refused(binary, r"p\.bcf", tmp_path)


@pytest.mark.external
def test_sound_bcf_is_found_sound(binary):
    pieces = iter([gzip.decompress(binary.read_bytes())])
    assert bcf.count_sound(pieces, 4) is None
    whole = gzip.decompress(binary.read_bytes())
    assert bcf.count_sound(iter([whole[i : i + 7] for i in range(0, len(whole), 7)]), 4) is None
    assert bcf.count_sound(iter([whole[:-1]]), 4) == 39
    assert bcf.count_sound(iter([whole]), 5) == 0


def test_samples_that_are_not_text_are_told(source, tmp_path):
    source.write_bytes(source.read_bytes().replace(b"\tS3", b"\t\xe9"))
    refused(source, "is not a readable VCF or BCF file", tmp_path)


@pytest.fixture
def panel(source, tmp_path):
    convert(source, tmp_path / "p.h5")
    return tmp_path / "p.h5"


def test_every_changed_byte_of_compressed_genotypes_is_noticed(panel):
    """Blosc alone inflates a changed block to other genotypes."""
    with h5py.File(panel) as file:
        where = file["calldata/GT"].id.get_chunk_info(0)
    sound = panel.read_bytes()
    for at in range(where.byte_offset + 16, where.byte_offset + where.size, 3):
        data = bytearray(sound)
        data[at] ^= 16
        panel.write_bytes(data)
        with pytest.raises(InputError, match=r"calldata/GT"), Panel.open(panel) as opened:
            opened.site_alleles(0, 40)


def test_panels_of_earlier_versions_are_read(panel, source, tmp_path, monkeypatch):
    from snvrag import panel as module

    plain = {k: v for k, v in module._COMPRESSION.items() if k != "fletcher32"}
    monkeypatch.setattr(module, "_COMPRESSION", plain)
    monkeypatch.setattr(module, "_LIBRARY", None)
    convert(source, tmp_path / "old.h5")
    with Panel.open(panel) as new, Panel.open(tmp_path / "old.h5") as old:
        assert old.digest == new.digest == new.content_digest() == old.content_digest()
        assert np.array_equal(old.genotypes(0, 40), new.genotypes(0, 40))


def test_deep_verification_notices_another_panel_of_the_same_digest(panel):
    build_index(panel)
    folder = panel.with_name("p.h5.index")
    assert verify(folder, deep=True).ok
    with h5py.File(panel, "r+") as file:
        file["variants/AC"][3] += 1
    report = verify(folder, deep=True)
    assert [check.name for check in report.checks if not check.ok] == ["panel content"]


def test_a_part_with_one_bit_changed_is_damaged(tmp_path):
    path = tmp_path / "part-00000.npy"
    part = np.arange(60, dtype=np.uint16).reshape(20, 3)
    write_part(path, part)
    assert np.array_equal(read_part(path, 20, 3), part)
    sound = path.read_bytes()
    for data in (
        sound[:150] + bytes([sound[150] ^ 1]) + sound[151:],
        sound[:-1],
        sound + b"\0",
        sound[:-4],
        b"PK\x05\x06" + bytes(18),
    ):
        path.write_bytes(data)
        with pytest.raises(MismatchError, match="is damaged"):
            read_part(path, 20, 3)


def test_settings_of_a_run_that_were_changed_are_noticed(tmp_path):
    from snvrag.config import RunConfig
    from snvrag.copying import EVIDENCE_BANK
    from snvrag.run_folder import write_identity

    config = {"windows": {"window_size": 60, "max_seq_len": 64}}
    identity = {"format_name": "snvrag-run", "format_version": 4, "config": config}
    write_identity(tmp_path, {**identity, "bank": EVIDENCE_BANK}, seed=1, inputs={})
    assert load_run(tmp_path).config == RunConfig(load_run(tmp_path).config.windows)
    path = tmp_path / "config.json"
    sound = path.read_text()
    path.write_text(sound.replace('"window_size": 60', '"window_size": 61'))
    with pytest.raises(InputError, match=r"config\.json: was changed"):
        load_run(tmp_path)
    path.write_text(sound.replace('"window_size": 60', '"window_size": 0'))
    with pytest.raises(InputError, match=r"config\.json: --window-size 0"):
        load_run(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("GP", "0,1,0"), ("HDS", "1,0"), ("DS", "1")])
def test_a_record_that_is_missing_in_all_samples_is_missing(tmp_path, key, value):
    path = tmp_path / "i.vcf"
    path.write_text(
        "##fileformat=VCFv4.2\n##contig=<ID=20>\n"
        f'##FORMAT=<ID={key},Number=.,Type=Float,Description="x">\n'
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\tb\n"
        f"20\t1\t.\tA\tG\t.\t.\t.\t{key}\t.\t.\n20\t2\t.\tA\tG\t.\t.\t.\t{key}\t{value}\t.\n"
    )
    with DosageReader(path) as reader:
        first, second = reader
    np.testing.assert_array_equal(first.dosage, [np.nan, np.nan])
    np.testing.assert_array_equal(first.genotype, [-1, -1])
    np.testing.assert_array_equal(second.dosage, [1, np.nan])
    np.testing.assert_array_equal(second.genotype, [1, -1])
    if first.probability is not None:
        assert np.isnan(first.probability).all()


@pytest.mark.parametrize("name", ["HLA-A*01:01:01:01", "gi|568815|ref", "chrUn_KI270742v1"])
def test_contigs_that_the_header_does_not_name(source, tmp_path, name):
    text = (
        source.read_text()
        .replace("##contig=<ID=20,length=1000000>\n", "")
        .replace("\n20\t", f"\n{name}\t")
    )
    source.write_text(text)
    assert convert(source, tmp_path / "o.h5").n_sites == 40


def test_a_map_as_large_as_eagles_is_read(tmp_path):
    path = tmp_path / "m.gz"
    lines = [f"{i} 1000 1 {i * 1e-3}{' ' * 60_000}\n" for i in range(1, 2001)]
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write("chr position COMBINED_rate(cM/Mb) Genetic_Map(cM)\n")
        file.writelines(lines)
    assert len(GeneticMap.read(path).points) == 2000


def test_blanks_in_names_of_samples_and_sites_are_names(tmp_path):
    path, panel = tmp_path / "p.vcf", tmp_path / "p.h5"
    header = "##fileformat=VCFv4.2\n##contig=<ID=20>\n" + (
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="g">\n'
    )
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tNA 1\tNA 2\n"
    path.write_text(f"{header}{columns}20\t100\trs 1\tA\tG\t.\t.\t.\tGT\t0|1\t1|0\n")
    convert(path, panel)
    with Panel.open(panel) as opened:
        assert opened.samples == ("NA 1", "NA 2")
        assert opened.sites.id.tolist() == ["rs 1"]


def test_a_map_takes_no_more_memory_than_it_may(tmp_path, monkeypatch):
    path = tmp_path / "m.gz"
    path.write_bytes(mutations.gzip_bomb(100))
    with pytest.raises(InputError, match="line 1: is longer"):
        GeneticMap.read(path)
    monkeypatch.setattr("snvrag.genetic_map._MAX_LINES", 3)
    path.write_text("20 . 1.0 100\n" * 4)
    with pytest.raises(InputError, match="3 lines of any map"):
        GeneticMap.read(path)
    path.write_text(f"20 . 1.0 {2**63}\n")
    with pytest.raises(InputError, match="line 1"):
        GeneticMap.read(path)


def test_a_list_takes_no_more_memory_than_it_may(tmp_path):
    path = tmp_path / "list"
    path.touch()
    mutations.sparse(path, 3 << 30)
    with pytest.raises(InputError, match="more than the"):
        read_lines(path)


def test_a_list_of_samples_is_named(source, tmp_path):
    listed = tmp_path / "s.txt"
    listed.write_text("S0\nS9\n")
    selection = genotypes.SampleSelection.from_file(str(listed))
    with pytest.raises(InputError, match=r"no sample 'S9' of .*s\.txt"):
        GenotypeReader.open(source, samples=selection)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a." * 30_000 + "a = 1", "a line of more than"),
        ("a = " + "[" * 4000, "not valid TOML"),
        ("#" * 70_000, "more than the"),
    ],
)
def test_a_setting_file_takes_no_more_than_it_may(tmp_path, text, sentence):
    from snvrag.cli.toml import read_toml

    (tmp_path / "snvrag.toml").write_text(f"[train]\n{text}\n")
    with pytest.raises(InputError, match=sentence):
        read_toml(tmp_path / "snvrag.toml")


def test_no_more_threads_than_there_can_be(monkeypatch):
    from snvrag.distributed import set_threads

    with pytest.raises(UsageError, match="--threads"):
        set_threads(2**40)


def test_a_seed_beyond_what_torch_takes_is_refused():
    with pytest.raises(UsageError, match=r"--seed 1180591620717411303424: must be below 2\^63"):
        run_config({"preset": "light", "seed": 1 << 70})


def test_a_panel_with_a_chromosome_in_two_places_is_damaged(source, tmp_path):
    panel = tmp_path / "p.h5"
    convert(source, panel)
    with h5py.File(panel, "r+") as file:
        names = file["variants/CHROM"][...].astype("S2")
        names[10:20] = b"21"
        del file["variants/CHROM"]
        file.create_dataset("variants/CHROM", data=names)
    with Panel.open(panel) as opened, pytest.raises(InputError, match="in two places"):
        opened.chromosomes()


@pytest.mark.parametrize(("column", "value"), [(1, "2147483648"), (3, "")])
def test_imputed_records_without_position_or_ref_are_damage(source, column, value):
    """They would be passed over as sites that the panel lacks."""
    change(source, column, value)
    with DosageReader(source) as reader, pytest.raises(InputError, match="damaged after record 10"):
        list(reader)
