"""The benchmark beside other tools, with stand-ins for the tools."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from helpers_vcf import write_vcf_rows

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "peers.py"
PEOPLE = ["A", "B", "C", "D"]
ROWS = [
    "20 100 A C 0|1 1|1 0|0 0|1",
    "20 200 A C 0|0 0|1 0|0 0|0",
    "20 300 A C 1|1 1|1 0|1 1|1",
]
# At 20:200 and 20:300 the truth varies; typed 20:100 does not count.
IMPUTED = """##fileformat=VCFv4.2
##contig=<ID=20>
##INFO=<ID=DR2,Number=A,Type=Float,Description="Quality">
##FORMAT=<ID=HDS,Number=.,Type=Float,Description="HDS">
#CHROM POS ID REF ALT QUAL FILTER INFO FORMAT A B C D
20 100 . A C . . DR2=0.1 HDS 0,1 1,1 0,0 0,1
20 200 . A C . . DR2=0.6 HDS 0,0 .2,.8 .1,0 0,0
20 300 . A C . . DR2=0.9 HDS 1,.9 1,1 .6,.7 .2,1
""".replace(" ", "\t")


@pytest.fixture
def peers(tmp_path, monkeypatch):
    """The script, with two tools: one that knows the truth and one that is not installed."""
    spec = importlib.util.spec_from_file_location("peers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "peers", module)
    spec.loader.exec_module(module)
    data = tmp_path / "dev"
    data.mkdir()
    for name in ("panel", "truth", "target.array", "target.random50"):
        write_vcf_rows(data / f"{name}.vcf.gz", ROWS, PEOPLE)
    for name in ("array", "random50"):
        (data / f"sites.{name}.txt").write_text("20 100\n")
    seen = []

    def oracle(case):
        seen.append((case.target, case.model))
        return case.data / "truth.vcf.gz", module.measure([sys.executable, "-c", "pass"])

    tools = (
        ("snvrag", "snvrag", None, oracle),
        ("snvrag -m", "model", None, oracle),
        ("Minimac4", "minimac4", "no-such-program", oracle),
    )
    monkeypatch.setattr(module, "TOOLS", tools)

    def run(*words):
        monkeypatch.setattr(
            sys, "argv", ["peers.py", "--data", str(data), "--targets", "array", "random50", *words]
        )
        module.main()

    run.module = module
    return run, seen


def test_every_row_has_the_tables_columns(peers, capsys):
    run, seen = peers
    run()
    out, err = capsys.readouterr()
    _, header, *rows = out.splitlines()
    assert [row.split()[:2] for row in rows] == [["array", "snvrag"], ["random50", "snvrag"]]
    assert {len(row) for row in rows} == {len(header)}
    # Of seven bins, that of MAF .1 to .2 and the last hold sites; then all, and the costs.
    figures = rows[0].split()[2:]
    assert len(figures) == 12
    assert figures[7] == "1.000"
    assert float(figures[10]) > 1
    assert "Minimac4 skipped: no-such-program is not installed" in err
    assert seen == [("array", None), ("random50", None)]


def test_model_only_and_json(peers, capsys, tmp_path):
    run, seen = peers
    run("--model", str(tmp_path / "run"), "--only", "model", "--json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["label"] for row in rows] == ["snvrag -m", "snvrag -m"]
    assert rows[0]["all"]["aggregate_r2"] == pytest.approx(1.0)
    assert rows[0]["bins"][0]["aggregate_r2"] is None
    assert rows[0]["peak_mb"] > 1
    assert seen == [("array", tmp_path / "run"), ("random50", tmp_path / "run")]
    with pytest.raises(SystemExit) as caught:
        run("--only", "model")
    assert caught.value.code == 2


def test_memory_and_seconds_are_the_commands_own(peers):
    measure = peers[0].module.measure
    here = b"1" * (150 << 20)
    small = measure([sys.executable, "-I", "-c", "pass"])
    large = measure([sys.executable, "-I", "-c", "sum(b'1' * (40 << 20))"])
    assert small.peak_mb < 60 < len(here) >> 20
    assert large.peak_mb > small.peak_mb + 30
    assert large.cpu_seconds > small.cpu_seconds + 0.05
    with pytest.raises(RuntimeError, match="no-such-program"):
        measure(["no-such-program"])


def test_confidence_parts_tool_from_formula(peers, capsys, tmp_path, monkeypatch):
    run, seen = peers
    run("--confidence")
    _, header, *rows = capsys.readouterr().out.splitlines()
    assert {len(row) for row in rows} == {len(header)}
    assert header.split()[-2:] == ["ratio", "snvrag"]
    # Bare genotypes have a calibrated dosage, and nothing else to tell.
    assert rows[0].split()[2:] == ["0.0000", *["-"] * 9]

    (tmp_path / "o.vcf").write_text(IMPUTED)

    def imputer(case):
        seen.append(case.haplotypes)
        return tmp_path / "o.vcf", run.module.measure([sys.executable, "-c", "pass"])

    monkeypatch.setattr(run.module, "TOOLS", (("one", "snvrag", None, imputer),))
    run("--confidence", "--json")
    found = json.loads(capsys.readouterr().out)["rows"][0]
    assert seen[-1] is True
    # The better site of two has the lower DR2 in the file; its haplotype dosages tell better.
    assert found["quality"]["n_sites"] == 2
    assert found["quality"]["correlation"] == pytest.approx(-1)
    assert found["score_formulas"] == pytest.approx({"ratio": 1, "snvrag": 1})
    assert found["gp_calibration"]["source"] == "HDS"
