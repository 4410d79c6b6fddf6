"""``examples/workflow``: the Snakemake workflow on the example, cut into two chromosomes."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("snakemake", reason="pip install 'snvrag[workflow]' to test the workflow")

WORKFLOW = Path(__file__).resolve().parents[1] / "examples" / "workflow"
SNVRAG = f"{sys.executable} -m snvrag"


def snakemake(folder, *words, profile="local"):
    command = [sys.executable, "-m", "snakemake", "--snakefile", WORKFLOW / "Snakefile"]
    command += ["--workflow-profile", WORKFLOW / "profiles" / profile, "--nocolor", *words]
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(folder)},
    )


@pytest.fixture
def example(tmp_path):
    """The example's files and its configuration, with the ``snvrag`` under test."""
    script = WORKFLOW / "make_example.py"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    settings = tmp_path / "config.yaml"
    text = settings.read_text()
    assert "\nsnvrag: snvrag\n" in text
    settings.write_text(text.replace("\nsnvrag: snvrag\n", f"\nsnvrag: {SNVRAG}\n"))
    return tmp_path


def jobs_of(output):
    """How often each rule would run, by a dry run's table."""
    table = output.split("Job stats:")[-1].split("Reasons:")[0]
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def records(path):
    with gzip.open(path, "rt") as lines:
        return [line.split("\t") for line in lines if not line.startswith("##")]


@pytest.mark.slow
def test_batches_of_two_chromosomes_are_imputed_merged_and_evaluated(example):
    (example / "data" / "chrB.truth.vcf").unlink()
    settings = example / "config.yaml"
    text = settings.read_text().replace("    truth: data/chrB.truth.vcf\n", "    model: shipped\n")
    settings.write_text(text)
    done = snakemake(example, "--cores", 2)
    assert done.returncode == 0, done.stderr
    out = example / "imputed"
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        *("chrA.vcf.gz", "chrA.vcf.gz.tbi", "chrB.vcf.gz", "chrB.vcf.gz.tbi"),
        "chrA.accuracy.json",
    }
    # Nothing is left of the batches but the lists of their samples.
    assert {path.suffix for path in out.glob("batches/*/*")} == {".samples"}
    assert list(out.glob("work/*")) == []
    assert json.loads((out / "chrA.accuracy.json").read_text())["all"]["aggregate_r2"] > 0.7
    words = ["impute", "data/chrA.target.vcf", "-r", "imputed/panel/chrA.h5"]
    words += ["--map", "data/chrA.map", "-o", "one-run.vcf.gz"]
    subprocess.run(
        [sys.executable, "-m", "snvrag", *words],
        cwd=example,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    merged, whole = records(out / "chrA.vcf.gz"), records(example / "one-run.vcf.gz")
    assert [row[:7] + row[8:] for row in merged] == [row[:7] + row[8:] for row in whole]
    with gzip.open(out / "chrB.vcf.gz", "rt") as lines:
        assert any(line.startswith("##snvrag_model=shipped light") for line in lines)
    # All is done, and a changed target is more work for its chromosome only.
    done = snakemake(example, "--dry-run")
    assert "Nothing to be done" in done.stdout + done.stderr
    target = example / "data" / "chrB.target.vcf"
    target.write_text(target.read_text().rsplit("\n", 2)[0] + "\n")
    done = snakemake(example, "--dry-run")
    assert jobs_of(done.stdout) == {"impute": 3, "merge": 1, "all": 1, "total": 5}


def test_training_comes_before_imputation_where_it_is_asked_for(example):
    settings = example / "config.yaml"
    settings.write_text(settings.read_text().replace("\ntrain: false\n", "\ntrain: true\n"))
    done = snakemake(example, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert jobs_of(done.stdout)["train"] == 2
    assert "--model imputed/model/chrA --work-dir" in done.stdout
    assert "train imputed/panel/chrA.h5 -o imputed/model/chrA --map data/chrA.map" in done.stdout


def test_the_slurm_profile_plans_the_same_jobs(example):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the SLURM plugin is absent")
    done = snakemake(example, "--dry-run", profile="slurm")
    assert done.returncode == 0, done.stderr
    assert jobs_of(done.stdout) == {
        **{"convert": 2, "samples": 6, "impute": 6, "merge": 2, "evaluate": 2, "all": 1},
        "total": 19,
    }
    (impute, *_) = [line for line in done.stdout.split("\nrule ") if line.startswith("impute:")]
    assert "mem_mb=4000" in impute
    assert "runtime=240" in impute
    assert "slurm_partition" in impute
    assert "--max-memory 3600M" in impute
    # Threads may be left out, and no job takes more than it asked for.
    settings = example / "config.yaml"
    settings.write_text(settings.read_text().replace("{threads: 4, ", "{"))
    done = snakemake(example, "--dry-run", profile="slurm")
    assert done.returncode == 0, done.stderr
    for command, threads in (("convert", 2), ("impute", 1)):
        lines = [line for line in done.stdout.splitlines() if f"snvrag {command} " in line]
        assert lines
        assert all(f" --threads {threads} " in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 8", "batch_size: 0", "0 is less than the minimum of 1"),
        ("    target: data/chrA.target.vcf\n", "", "'target' is a required property"),
        ("data/chrB.target.vcf", "data/none.vcf", "the target of chrB is not there"),
        ("data/chrB.target.vcf", "data/chrB.map", "is not a VCF or BCF"),
        ("    truth:", "    thruth:", "'thruth' was unexpected"),
    ],
)
def test_a_wrong_configuration_is_told_before_any_job(example, old, new, message):
    settings = example / "config.yaml"
    text = settings.read_text()
    assert old in text
    settings.write_text(text.replace(old, new))
    done = snakemake(example, "--dry-run")
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
