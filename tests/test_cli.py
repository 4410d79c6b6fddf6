import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import mosaic, write_vcf
from helpers_vcf import write_vcf_rows

import snvrag
from snvrag.cli.app import run
from snvrag.cli.options import parse_memory
from snvrag.errors import UsageError

SMALL = ["--window-size", "60", "--max-seq-len", "64"]
QUICK = [*SMALL, "--dims", "16", "--layers", "1", "--epochs", "1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def snvrag_process(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "snvrag", *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        **options,
    )


def test_version_and_help(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"snvrag {snvrag.__version__}\n"
    for words in ([], ["--help"], ["-h"]):
        assert run(words) == 0
        out = capsys.readouterr().out
        for command in ("convert", "windows", "build-index", "train", "verify"):
            assert command in out


@pytest.mark.parametrize("command", ["convert", "windows", "build-index", "train", "verify"])
def test_every_command_takes_the_common_options(capsys, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    for option in (
        *("--verbose", "-v", "--quiet", "-q", "--no-progress", "--log-file"),
        *("--json", "--force", "--threads"),
    ):
        assert option in out, option
    assert "window-path" not in out
    assert "window_size" not in out


def test_help_is_fast_and_imports_nothing_heavy():
    script = (
        "import sys; from snvrag.cli.app import run; run(['--help']); "
        "heavy = {'torch', 'faiss', 'h5py', 'cyvcf2', 'numpy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        assert snvrag_process("--help").returncode == 0
        seconds.append(time.perf_counter() - began)
    # Measured 0.2 s; a loaded CI machine gets some slack.
    assert min(seconds) < 1.0


def test_windows_json_is_the_contract(capsys):
    assert run(["windows", "--total-snps", "150000", "--json"]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert {k: v for k, v in data.items() if k != "windows"} == {
        "window_size": 511,
        "max_seq_len": 512,
        "total_snps": 150_000,
        "num_windows": 294,
    }
    assert data["windows"][293] == {
        "index": 293,
        "chrom": None,
        "start": 149_723,
        "end": 150_000,
        "n_snps": 277,
    }
    assert captured.err == ""


def test_windows_table(capsys):
    assert run(["windows", "--total-snps", "150000"]) == 0
    captured = capsys.readouterr()
    table, _, summary = captured.out.partition("\nwindows ")
    assert table.splitlines()[-2].split() == ["293", "149,723", "150,000", "277"]
    assert summary.split()[:3] == ["294", "SNPs", "150,000"]
    assert captured.err == ""
    assert max(map(len, captured.out.splitlines())) <= 80
    assert run(["windows", "--total-snps", "5110", "--all"]) == 0
    assert len([x for x in capsys.readouterr().out.splitlines() if x.split()]) == 12 + 3


def test_windows_of_a_panel(capsys, make_panel):
    path = make_panel(mosaic(8, 150), chroms=["1"] * 100 + ["2"] * 50)
    assert run(["windows", str(path), *SMALL, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(w["chrom"], w["n_snps"]) for w in data["windows"]] == [("1", 60), ("1", 40), ("2", 50)]
    assert run(["windows", str(path), *SMALL]) == 0
    assert "chromosome" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["windows"], "either a panel or --total-snps", "--total-snps 150000"),
        (["windows", "x.h5", "--total-snps", "5"], "not both", "--total-snps 150000"),
        (
            ["windows", "--total-snps", "5", "--window-size", "1023"],
            "needs 1024 tokens",
            "--max-seq-len 1024",
        ),
        (["windows", "--total-snps", "0"], "--total-snps", "--help"),
        (["windows", "absent.h5"], "absent.h5: no such panel", "snvrag convert"),
        (["convert", "absent.vcf.gz", "-o", "x.h5"], "absent.vcf.gz", "path"),
        (["convert", "absent.vcf.gz"], "--output", "snvrag convert --help"),
        (["train", "--window-path", "w.csv"], "removed: use --window-size", "windows"),
        (["train", "--window_path", "w.csv"], "removed: use --window-size", "windows"),
        (["train", "absent.h5"], "absent.h5: no such panel", "snvrag convert"),
        (["train", "absent.h5", "--preset", "huge"], "--preset huge", "tiny"),
        (["train", "absent.h5", "--max-memory", "lots"], "--max-memory lots", "4G"),
        (["train", "absent.h5", "--mask-levels", "0.3,x"], "--mask-levels", "0.3,0.5"),
        (["train", "absent.h5", "--device", "tpu"], "--device tpu", "cuda"),
        (["verify", "absent/"], "no such index folder", "build-index"),
        (["verify"], "INDEX_DIR", "--help"),
        (["build-index", "absent.h5", "--kind", "other"], "absent.h5", "convert"),
        (["windows", "--bogus"], "--bogus", "snvrag windows --help"),
        (["bogus"], "bogus", "--help"),
        (["verify", "x", "--threads", "0"], "--threads", "--help"),
    ],
)
def test_bad_usage_is_one_sentence_and_a_hint_exit_2(capsys, folder, words, message, hint):
    assert run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 2, captured.err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]
    assert list(folder.iterdir()) == []


def test_window_size_1023_runs_with_a_longer_sequence(capsys):
    words = ["windows", "--total-snps", "150000", "--window-size", "1023", "--max-seq-len", "1024"]
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_windows"] == 147


def test_the_whole_path(capsys, folder):
    source = write_vcf(folder / "panel.vcf", mosaic(60, 250))
    assert run(["convert", str(source), "-o", "panel.h5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n_sites"], report["n_samples"]) == (250, 30)
    assert run(["build-index", "panel.h5", *SMALL, "--windows", "0-1"]) == 0
    captured = capsys.readouterr()
    assert "windows built" in captured.out
    assert "JIT" not in captured.err
    assert run(["verify", "panel.h5.index"]) == 1
    captured = capsys.readouterr()
    assert "FAIL" in captured.out
    assert captured.out.endswith(
        "next: snvrag build-index panel.h5 panel.h5.index/ --windows 2-4\n"
    )
    assert run(["verify", "panel.h5.index", "--allow-partial"]) == 0
    capsys.readouterr()
    assert run(["train", "panel.h5", *QUICK, "--json", "--log-file", "log.txt"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["output"].endswith("snvrag-run")
    assert report["jit_builds"] == 3
    jit = [x for x in captured.err.splitlines() if x.startswith("JIT: built index for window")]
    assert sorted(re.findall(r"window (\d)", " ".join(jit))) == ["2", "3", "4"]
    assert all(re.fullmatch(r"JIT: .* \(60 haplotypes, \d+ ms\)", x) for x in jit)
    for fact in ("window size", "num windows", "MAX_SEQ_LEN", "window-grouped", "panel samples"):
        assert fact in captured.err
    log = Path("log.txt").read_text()
    assert log.count("JIT: built") == 3
    assert "first optimiser step" in log
    assert run(["verify", "panel.h5.index", "--deep", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"]
    assert (data["num_windows"], data["present"], data["missing"]) == (5, 5, [])


def test_train_picks_the_next_free_folder_and_resumes(capsys, folder):
    write_vcf(folder / "panel.vcf", mosaic(24, 70))
    assert run(["convert", "panel.vcf", "-o", "panel.h5", "-q"]) == 0
    for name in ("snvrag-run", "snvrag-run-2"):
        assert run(["train", "panel.h5", *QUICK, "-q"]) == 0
        assert (folder / name / "model.safetensors").exists()
    assert capsys.readouterr().out == ""
    words = ["train", "panel.h5", *QUICK, "-o", "snvrag-run"]
    assert run(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert run([*words, "--resume"]) == 0
    told = capsys.readouterr()
    assert "nothing was left to do" in told.err
    assert "nan" not in told.out + told.err
    assert run([*words, "--force"]) == 0
    capsys.readouterr()
    assert run(["train", "panel.h5", "--resume"]) == 2
    assert "-o" in capsys.readouterr().err


def test_underscore_alias_of_window_size(capsys, folder):
    write_vcf(folder / "panel.vcf", mosaic(24, 70))
    assert run(["convert", "panel.vcf", "-o", "panel.h5", "-q"]) == 0
    assert run(["train", "panel.h5", *QUICK[2:], "--window_size", "60", "-q", "-o", "r"]) == 0
    config = json.loads(Path("r/config.json").read_text())
    assert config["config"]["windows"]["window_size"] == 60


def test_settings_from_toml_and_options_over_them(capsys, folder):
    write_vcf(folder / "panel.vcf", mosaic(24, 70))
    assert run(["convert", "panel.vcf", "-o", "panel.h5", "-q"]) == 0
    Path("snvrag.toml").write_text(
        '[train]\npanel = "panel.h5"\noutput = "mine"\nwindow_size = 30\nmax_seq_len = 64\n'
        "dims = 16\nlayers = 1\nepochs = 9\nmask_levels = [0.2, 0.4]\n"
    )
    assert run(["train", "--epochs", "1"]) == 0
    assert "snvrag.toml" in capsys.readouterr().err
    config = json.loads(Path("mine/config.json").read_text())["config"]
    assert config["windows"]["window_size"] == 30
    assert config["train"]["epochs"] == 1
    assert config["mask"]["levels"] == [0.2, 0.4]
    Path("snvrag.toml").write_text("[train]\nepochs = 1\n")
    assert run(["train"]) == 2
    assert "names no panel" in capsys.readouterr().err
    Path("snvrag.toml").write_text('[train]\npanel = "panel.h5"\ndepth = 1\n')
    assert run(["train"]) == 2
    assert "unknown setting 'depth'" in capsys.readouterr().err


@pytest.mark.slow
def test_train_without_a_panel_uses_the_bundled_example(capsys, folder):
    # The example's own preset, tiny, takes long; the README's commands have it.
    quick = ["--preset", "light", "--epochs", "1", "--epoch-batches", "60"]
    assert run(["train", "--window-size", "511", *quick]) == 0
    captured = capsys.readouterr()
    said = [x for x in captured.err.splitlines() if "bundled example" in x]
    assert said == [
        "no panel given: training on the bundled example, laid out in ./snvrag-example/"
    ]
    assert (folder / "snvrag-example" / "panel.h5.index" / "manifest.json").exists()
    row = json.loads((folder / "snvrag-run" / "metrics.jsonl").read_text().splitlines()[-1])
    for method in ("af", "nearest", "copying"):
        assert row["val_r2"] > row[f"{method}_r2"]
    assert run(["verify", "snvrag-example/panel.h5.index/", "--deep"]) == 0


@pytest.mark.parametrize(
    ("record", "word"),
    [("20 5 A C 0/1 0|0", "unphased"), ("20 5 A C 0|1 .|.", "missing"), ("20 5 A C,G 0|2 0|1", "")],
)
def test_unphased_missing_and_multiallelic_panels(capsys, folder, record, word):
    write_vcf_rows(folder / "p.vcf.gz", [record], ["A", "B"])
    assert run(["convert", "p.vcf.gz", "-o", "p.h5"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "p.vcf.gz" in lines[0]
    assert (word or "1 multi-allelic") in lines[0]
    assert sorted(p.name for p in folder.iterdir()) == ["p.vcf.gz"]


def test_unknown_region_sample_and_a_full_selection(capsys, folder):
    write_vcf_rows(folder / "p.vcf.gz", ["20 5 A C 0|1 0|1"], ["A", "B"])
    for words, word in (
        (["-r", "chr20"], "no contig 'chr20'"),
        (["-s", "Z"], "no sample 'Z'"),
        (["-r", "20:9-3"], "ends before"),
        (["-r", "20", "-R", "f"], "exclude one another"),
        (["-s", "A", "-S", "f"], "exclude one another"),
        (["-S", "f"], "f: cannot be read"),
        (["-o", "no/p.h5"], "does not exist"),
    ):
        assert run(["convert", "p.vcf.gz", "-o", "p.h5", *words]) == 2
        assert word in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["p.vcf.gz"]


def test_read_only_places(capsys, make_panel):
    path = make_panel(mosaic(24, 70))
    # /proc refuses even root, which permission bits do not.
    assert run(["convert", str(path.with_suffix(".vcf")), "-o", "/proc/p.h5"]) == 2
    assert "cannot be written to" in capsys.readouterr().err
    assert run(["train", str(path), *QUICK, "-o", "/proc/run"]) == 2
    assert "/proc/run" in capsys.readouterr().err
    assert run(["train", str(path), *QUICK, "-i", "/proc/i", "-o", str(path.parent / "r")]) == 2
    captured = capsys.readouterr()
    assert "hint: choose another index folder with -i" in captured.err
    assert not (path.parent / "r").exists()


def test_unexpected_faults_are_one_line_and_a_traceback_only_on_demand(capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("boom\nsecond line")

    monkeypatch.setattr("snvrag.windows.WindowPlan.from_total", broken)
    assert run(["windows", "--total-snps", "5"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected RuntimeError: boom second line\nhint: ")
    assert "Traceback" not in err
    assert run(["windows", "--total-snps", "5", "-vv"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(28, "No space left on device", "x.h5"), "x.h5: no space left"),
        (MemoryError(), "out of memory"),
        (PermissionError(13, "Permission denied", "y"), "y: Permission denied"),
    ],
)
def test_system_errors_are_one_sentence(capsys, monkeypatch, error, word):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr("snvrag.windows.WindowPlan.from_total", broken)
    assert run(["windows", "--total-snps", "5"]) == 1
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_cleans_up(tmp_path, number, code):
    source = write_vcf(tmp_path / "p.vcf", mosaic(400, 3000))
    process = subprocess.Popen(
        [sys.executable, "-m", "snvrag", "convert", str(source), "-o", str(tmp_path / "p.h5")],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == "interrupted\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.vcf"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_within_a_callback_is_not_lost(number, code):
    program = f"""
import os, time, weakref
from snvrag.cli import app, entry

class Anything:
    pass

def command(**_):
    anything = Anything()
    reference = weakref.ref(anything, lambda _: os.kill(os.getpid(), {int(number)}))
    del anything
    time.sleep(30)

app.app = command
entry.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == code
    assert done.stderr == "interrupted\n"


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m snvrag windows --total-snps 90000000 --json | head -1"
    result = subprocess.run(  # noqa: S602
        command, shell=True, capture_output=True, text=True, check=False
    )
    assert result.stdout == "{\n"
    assert "Traceback" not in result.stderr
    assert "rror" not in result.stderr


def test_no_colour_codes_outside_a_terminal():
    result = snvrag_process("windows", "--total-snps", "1000", env={**os.environ, "COLUMNS": "80"})
    assert "\x1b" not in result.stdout + result.stderr


def test_memory_amounts():
    assert parse_memory(None) is None
    assert parse_memory("2G") == parse_memory("2gb") == parse_memory("2048M") == 2**31
    assert parse_memory("1.5K") == 1536
    for text in ("", "G", "-1G", "0", "nan", "inf", "1X"):
        with pytest.raises(UsageError):
            parse_memory(text)


def test_help_in_a_tmux_terminal_fits_80_columns():
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    result = snvrag_process("train", "--help", env={**os.environ, "COLUMNS": "80"})
    assert max(map(len, result.stdout.splitlines())) <= 80
