"""Exact resume of real processes that are killed without warning."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

# Dropout is on, the curriculum rises at epoch 3, and patience ends the run before its 20 epochs.
SETTINGS = shlex.split(
    "--preset tiny --window-size 60 --max-seq-len 64 --dims 16 --layers 2 --heads 2 "
    "--dropout 0.2 --batch-size 12 --epochs 20 --patience 5 --min-delta 0.02 "
    "--warmup-steps 20 --lr 0.003 --checkpoint-every 2 --device cpu --threads 1 "
    "--no-progress"
)
KILLS = 4


def start(panel, run, *options):
    command = [sys.executable, "-m", "snvrag", "train", panel, "-o", run, *SETTINGS, *options]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process):
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return stderr


def last_step(run):
    steps = [int(p.name.removeprefix("step-")) for p in (run / "checkpoints").glob("step-*")]
    return max(steps, default=0)


def kill_after_progress(process, run, delay):
    """SIGKILL ``delay`` seconds after the process has saved a step of its own."""
    before, deadline = last_step(run), time.monotonic() + 60
    while last_step(run) <= before:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    assert process.poll() is None, "the run was over before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def rows(run):
    """The metrics, apart from times and the number of indexes built."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if "seconds" not in k and k != "jit_builds"} for row in lines
    ]


def assert_equal_runs(a, b):
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert rows(a) == rows(b)
    last = [sorted((run / "checkpoints").glob("step-*"))[-1] for run in (a, b)]
    assert last[0].name == last[1].name
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes(), name
    progress = [json.loads((p / "state.json").read_text())["progress"] for p in last]
    for state in progress:
        state.pop("epoch_seconds")
    assert progress[0] == progress[1]


@pytest.fixture(scope="module")
def undisturbed(mosaic_panel, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(mosaic_panel, run))
    return run


def test_a_run_killed_again_and_again_ends_in_the_same_bytes(mosaic_panel, tmp_path, undisturbed):
    # The curriculum was raised and early stopping ended the run, so both were resumed.
    assert 4 < len(rows(undisturbed)) < 20
    run, chance = tmp_path / "run", np.random.default_rng()
    for number in range(KILLS):
        options = ["--resume"] if number else []
        kill_after_progress(start(mosaic_panel, run, *options), run, chance.uniform(0, 0.1))
        assert last_step(run) > 0
    told = finish(start(mosaic_panel, run, "--resume"))
    assert "resuming at epoch" in told
    assert_equal_runs(undisturbed, run)
    hidden = [p for p in run.rglob(".*") if p.name.endswith(".tmp")]
    assert hidden == []


def test_embedding_indexes_go_on_with_the_weights_that_their_epoch_began_with(
    mosaic_panel, tmp_path
):
    """Other weights round distances otherwise, and find other neighbours."""
    options = ["--index-kind", "embedding", "--epochs", "1", "--lr", "0.02"]
    finish(start(mosaic_panel, tmp_path / "whole", *options))
    run = tmp_path / "run"
    kill_after_progress(start(mosaic_panel, run, *options), run, 0.0)
    assert last_step(run) < 15
    finish(start(mosaic_panel, run, *options, "--resume"))
    assert_equal_runs(tmp_path / "whole", run)


@pytest.fixture(scope="module")
def killed(mosaic_panel, tmp_path_factory):
    run = tmp_path_factory.mktemp("killed") / "run"
    process = start(mosaic_panel, run)
    while last_step(run) < 8:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return run


@pytest.mark.parametrize("damage", ["no state", "short weights", "short moments"])
def test_a_checkpoint_cut_short_is_never_picked_up(
    mosaic_panel, tmp_path, undisturbed, killed, damage
):
    run = shutil.copytree(killed, tmp_path / "run")
    older, newest = sorted((run / "checkpoints").glob("step-*"))[-2:]
    if damage == "no state":
        (newest / "state.json").unlink()
    else:
        name = "model" if damage == "short weights" else "optimizer"
        file = newest / f"{name}.safetensors"
        os.truncate(file, file.stat().st_size // 2)
    told = finish(start(mosaic_panel, run, "--resume"))
    assert f"{newest}: incomplete checkpoint passed over" in told
    assert f"step {int(older.name.removeprefix('step-'))}\n" in told
    assert_equal_runs(undisturbed, run)
