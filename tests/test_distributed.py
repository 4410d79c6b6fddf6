import json
import math
import os
import re
import shlex
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from snvrag.distributed import Ranks, join, resolve_device
from snvrag.errors import UsageError

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
# Dropout is on, two batches make a step, and neither 36 samples nor batches of 7 divide evenly.
SETTINGS = shlex.split(
    "--preset tiny --window-size 60 --max-seq-len 64 --dims 16 --layers 2 --heads 2 "
    "--dropout 0.1 --batch-size 7 --accumulate 2 --epochs 2 --device cpu --threads 1 "
    "--no-progress"
)


def launch(words, ranks=1):
    environment = {k: v for k, v in os.environ.items() if k not in {"RANK", "WORLD_SIZE"}}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    command = [sys.executable] if ranks == 1 else [*TORCHRUN, str(ranks)]
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


def train(panel, output, *options, ranks=1):
    words = ["-m", "snvrag", "train", panel, "-o", output, *SETTINGS, *options]
    done = launch(words, ranks)
    assert done.returncode == 0, done.stderr
    return done


def figures(run):
    """What ``metrics.jsonl`` says apart from times and builds; null stands for undefined."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: math.nan if v is None else v for k, v in row.items() if not re.search("seconds|jit", k)}
        for row in rows
    ]


def assert_same_run(a, b):
    """Weights to 1e-4 of their size (Adam lifts rounding errors of small gradients), losses too."""
    weights = [load_file(run / "model.safetensors") for run in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-4)
    for row, other in zip(figures(a), figures(b), strict=True):
        for key, value in row.items():
            assert other[key] == pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True), key


@pytest.fixture(scope="module")
def single(mosaic_panel, tmp_path_factory):
    run = tmp_path_factory.mktemp("single") / "run"
    train(mosaic_panel, run)
    return run


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_train_as_one_process_does(mosaic_panel, tmp_path, single, ranks):
    run = tmp_path / "run"
    done = train(mosaic_panel, run, "--json", ranks=ranks)
    report = json.loads(done.stdout)  # rank 0 alone prints
    assert report["steps"] == 30
    assert done.stderr.count("first optimiser step") == 1
    assert_same_run(single, run)
    first = figures(run)[0]["train_loss"]
    assert first != figures(run)[1]["train_loss"]


FAULTY = """
    import os, signal, sys
    from snvrag.cli.entry import main
    from snvrag.errors import WorkError
    from snvrag.trainer import Trainer

    original = Trainer._step

    def step(self, scored):
        if self.progress.step == 4 and self.ranks.rank == {rank}:
            {act}
        return original(self, scored)

    Trainer._step = step
    main()
"""


def launch_faulty(tmp_path, panel, act, *, rank, options=()):
    script = tmp_path / "faulty.py"
    script.write_text(textwrap.dedent(FAULTY.format(act=act, rank=rank)))
    return launch([script, "train", panel, "-o", tmp_path / "run", *SETTINGS, *options], ranks=2)


def own_lines(stderr):
    return [line for line in stderr.splitlines() if line.startswith(("error:", "hint:"))]


def exit_codes(stderr):
    return sorted(map(int, re.findall(r"exitcode\s*:\s*(-?\d+)", stderr)))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failing_rank_ends_all_with_one_message(mosaic_panel, tmp_path, rank):
    act = "raise WorkError('the moon is in the way', 'wait')"
    done = launch_faulty(tmp_path, mosaic_panel, act, rank=rank)
    assert done.returncode == 1
    assert own_lines(done.stderr) == ["error: the moon is in the way", "hint: wait"]
    # torchrun may stop the other rank by SIGTERM before it has seen the failure; 143 is our own
    # exit code for that.
    assert set(exit_codes(done.stderr)) <= {1, -15, 143}


def test_bad_input_is_told_once_with_exit_code_2(tmp_path):
    done = launch(["-m", "snvrag", "train", "absent.h5", "-o", tmp_path / "r"], ranks=2)
    assert len(own_lines(done.stderr)) == 2
    assert "absent.h5" in own_lines(done.stderr)[0]
    assert 2 in exit_codes(done.stderr)
    assert set(exit_codes(done.stderr)) <= {2, -15, 143}


def test_a_killed_rank_is_reported_and_the_run_goes_on_with_fewer(mosaic_panel, tmp_path):
    act = "os.kill(os.getpid(), signal.SIGKILL)"
    every = ("--checkpoint-every", "3")
    done = launch_faulty(tmp_path, mosaic_panel, act, rank=1, options=every)
    assert done.returncode == 1
    assert len(own_lines(done.stderr)) <= 2
    assert -9 in exit_codes(done.stderr)
    saved = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert saved == ["step-00000003"]
    state = json.loads((tmp_path / "run/checkpoints/step-00000003/state.json").read_text())
    assert state["score"]["all"]["r2"]["n"] > 0
    # The interval of checkpoints is part of the run's identity, so the twin needs it too.
    train(mosaic_panel, tmp_path / "run", "--resume", *every)
    train(mosaic_panel, tmp_path / "twin", *every)
    assert_same_run(tmp_path / "twin", tmp_path / "run")


@pytest.mark.parametrize("n", [0, 1, 5, 7, 36])
def test_shares_cover_everything_once_and_evenly(n):
    for size in (1, 2, 3, 8):
        shares = [range(n)[Ranks(rank=r, world_size=size).share(n)] for r in range(size)]
        assert [i for share in shares for i in share] == list(range(n))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_shares_with_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with join("cpu") as ranks, join("cpu") as inner:
        assert inner is ranks
        assert (ranks.rank, ranks.world_size, ranks.is_main) == (0, 1, True)
        assert ranks.once(lambda: "x") == "x"
        tree = {"a": [1, 2.5], "b": {"c": 3}}
        assert ranks.sum_tree(tree) == tree


def test_a_half_set_environment_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="LOCAL_RANK is not set"), join("cpu"):
        pass


SUMS = """
    import sys
    from pathlib import Path

    import torch
    from snvrag.distributed import join

    with join("cpu") as ranks:
        a, b, c = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
        a.grad = torch.full((2,), 1.0 + ranks.rank)
        if ranks.rank == 1:
            b.grad = torch.full((2,), 5.0)
        ranks.sum_gradients([a, b, c])
        tree = ranks.sum_tree({"n": ranks.rank + 1, "x": [0.5, {"y": 2.0}], "name": "t"})
        text = ranks.once(lambda: f"from {ranks.rank}")
        # Two ranks' lines on one pipe may mingle: each writes a file of its own.
        line = f"{a.grad.tolist()} {b.grad.tolist()} {c.grad} {tree} {text}"
        Path(sys.argv[1], f"rank-{ranks.rank}").write_text(line)
"""


def test_sums_over_ranks(tmp_path):
    script = tmp_path / "sums.py"
    script.write_text(textwrap.dedent(SUMS))
    done = launch([script, tmp_path], ranks=2)
    assert done.returncode == 0, done.stderr
    expected = "[3.0, 3.0] [5.0, 5.0] None {'n': 3, 'x': [1.0, {'y': 4.0}], 'name': 't'} from 0"
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == [expected] * 2


LEAVE = """
    import sys
    from pathlib import Path

    import torch
    from snvrag.distributed import join

    def threads():
        return sorted(path.read_text() for path in Path("/proc/self/task").glob("*/comm"))

    with join("cpu") as ranks:
        # Torch imports much more of itself for the first optimiser.
        torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
        ranks.sum_numbers([1.0])
        during = threads()
    Path(sys.argv[1], f"rank-{ranks.rank}").write_text("".join([*during, "after\\n", *threads()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_thread_of_the_process_group_outlives_it(tmp_path):
    """Those that did aborted the end of a finished process, once in many runs."""
    script = tmp_path / "leave.py"
    script.write_text(textwrap.dedent(LEAVE))
    done = launch([script, tmp_path], ranks=2)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        during, after = (tmp_path / f"rank-{rank}").read_text().split("after\n")
        assert "gloo" in during
        assert "gloo" not in after


def test_devices_are_checked():
    assert resolve_device("cpu") == torch.device("cpu")
    for name in ("tpu", "cuda:x", "cuda:99"):
        with pytest.raises(UsageError, match=name):
            resolve_device(name)
