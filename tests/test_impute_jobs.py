"""``impute --jobs``: several processes give one process's bytes, and end as one does."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import mosaic, write_vcf

from snvrag import chunks, imputation, impute_jobs, workdir
from snvrag.cli.app import run as run_command
from snvrag.config import run_config
from snvrag.conversion import convert
from snvrag.errors import InputError, MismatchError, OutputError, UsageError, WorkError
from snvrag.imputation import impute
from snvrag.impute_chunks import PartMaker
from snvrag.networks import ChosenNetwork
from snvrag.training import train
from snvrag.workdir import shared_arrays

N_SITES = 2600
WINDOWS = 6
PIPES = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A panel of 60 samples, and 40 others as target at every tenth site."""
    folder = tmp_path_factory.mktemp("jobs")
    alleles = mosaic(200, N_SITES, founders=12, switch_rate=0.002)
    write_vcf(folder / "panel.vcf", alleles[:120], spacing=100)
    convert(folder / "panel.vcf", folder / "panel.h5")
    target = write_vcf(folder / "target.vcf", alleles[120:], spacing=100)
    lines = target.read_text().replace("\tS", "\tT").splitlines()
    head = [x for x in lines if x.startswith("#")]
    target.write_text("\n".join(head + lines[len(head) :: 10]) + "\n")
    return folder


def run(case, output, **options):
    options.setdefault("panel", case / "panel.h5")
    options.setdefault("threads", options.get("jobs", 1))
    return impute(case / "target.vcf", output=output, **options)


def alone(case, output, *words):
    """The same by one process that is a new one, as workers are.

    A process that compiles the kernels may round another way than one that reads them from disk.
    """
    target, panel = str(case / "target.vcf"), str(case / "panel.h5")
    command = [sys.executable, "-m", "snvrag", "impute", target, "-r", panel, "--threads", "1"]
    for _ in range(2):
        subprocess.run(
            [*command, "-o", str(output), "--force", *map(str, words)],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    return output.read_bytes()


def children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return found


@pytest.fixture
def short_chunks(monkeypatch):
    """A chunk for each window, with flanks of one window."""
    monkeypatch.setattr(chunks, "_FLANK_CM", 0.04)
    monkeypatch.setattr(chunks, "_CORE_WINDOWS", 1)


@pytest.mark.parametrize("name", ["o.vcf.gz", "o.bcf"])
def test_groups_of_haplotypes_in_two_processes_give_the_bytes_of_one(case, tmp_path, name):
    seen = []
    expected = alone(case, tmp_path / f"one-{name}", "--hds")
    two = run(
        case,
        tmp_path / f"two-{name}",
        hds=True,
        jobs=2,
        progress=lambda task, done, total: task == "imputing" and seen.append((done, total)),
    )
    assert two.chunks == 4
    assert (tmp_path / f"two-{name}").read_bytes() == expected
    assert {total for _, total in seen} == {N_SITES}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == N_SITES
    # Two parts may end at one time.
    assert len(set(seen)) > 2
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.usefixtures("short_chunks")
def test_chunks_in_three_processes_give_the_bytes_of_one(case, tmp_path):
    three = run(case, tmp_path / "three.vcf.gz", jobs=3)
    assert three.chunks == WINDOWS
    script = (
        "from pathlib import Path; import sys; from snvrag import chunks, impute\n"
        "chunks._FLANK_CM, chunks._CORE_WINDOWS = 0.04, 1\n"
        "print(impute(*map(Path, sys.argv[1:]), threads=1).chunks)"
    )
    files = (case / "target.vcf", case / "panel.h5", tmp_path / "one.vcf.gz")
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, files)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert int(done.stdout) == WINDOWS
    assert (tmp_path / "one.vcf.gz").read_bytes() == (tmp_path / "three.vcf.gz").read_bytes()


@pytest.mark.parametrize("preset", ["light", "tiny"])
def test_networks_refine_in_two_processes_as_in_one(case, tmp_path, preset):
    settings = {"preset": preset, "dims": 16, "epochs": 1, "batch_size": 2, "epoch_batches": 2}
    settings |= {"layers": 1, "heads": 2} if preset == "tiny" else {}
    config = run_config(settings | {"warmup_steps": 1})
    train(case / "panel.h5", tmp_path / "run", config=config, index_dir=tmp_path / "index")
    options = {"model": tmp_path / "run"}
    if preset == "tiny":
        options["index_dir"] = tmp_path / "index"
    words = ["-m", tmp_path / "run"] + (["-i", tmp_path / "index"] if preset == "tiny" else [])
    expected = alone(case, tmp_path / "one.vcf.gz", *words)
    two = run(case, tmp_path / "two.vcf.gz", jobs=2, **options)
    # A network that reads windows keeps its batches of 64 haplotypes.
    assert two.chunks == {"light": 4, "tiny": 2}[preset]
    assert (tmp_path / "two.vcf.gz").read_bytes() == expected


@PIPES
@pytest.mark.usefixtures("short_chunks")
def test_a_killed_worker_is_told_and_the_same_command_goes_on(case, tmp_path):
    work = tmp_path / "o.vcf.gz.work"

    def kill(task, done, total):
        if list(work.glob("part-*.npy")):
            (worker, *_) = children(os.getpid())
            os.kill(worker, signal.SIGKILL)

    with pytest.raises(WorkError, match=r"a worker process .* was ended by SIGKILL") as caught:
        run(case, tmp_path / "o.vcf.gz", jobs=2, progress=kill)
    assert "fewer --jobs" in caught.value.hint
    assert "the same command goes on" in caught.value.hint
    assert caught.value.exit_code == 1
    assert children(os.getpid()) == []
    kept = {path.name for path in work.iterdir() if path.name != ".lock"}
    n_kept = len(kept) - 1
    assert kept == {"plan.json", *(path.name for path in work.glob("part-*.npy"))}
    assert n_kept >= 1
    report = run(case, tmp_path / "o.vcf.gz", jobs=2)
    assert report.reused == n_kept
    run(case, tmp_path / "whole.vcf.gz", jobs=2)
    assert (tmp_path / "o.vcf.gz").read_bytes() == (tmp_path / "whole.vcf.gz").read_bytes()


WAITING = """
import time
from snvrag import chunks, impute_jobs
from snvrag.cli.entry import main
chunks._FLANK_CM = 0.04
chunks._CORE_WINDOWS = 1
whole = impute_jobs._next_part
def slow(worker, left, folder):
    whole(worker, left, folder)
    if any(folder.glob("part-*.npy")):
        time.sleep(60)
impute_jobs._next_part = slow
main()
"""


@PIPES
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_all_processes_end_and_the_same_command_goes_on(case, tmp_path, number):
    words = ["impute", str(case / "target.vcf"), "-r", str(case / "panel.h5"), "--jobs", "2"]
    words += ["--threads", "2", "-o", "o.vcf.gz"]
    first = subprocess.Popen(
        [sys.executable, "-c", WAITING, *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    work = tmp_path / "o.vcf.gz.work"
    wait_until(lambda: list(work.glob("part-*.npy")) or first.poll() is not None)
    workers = children(first.pid)
    assert len(workers) == 2
    began = time.monotonic()
    first.send_signal(number)
    _, err = first.communicate(timeout=60)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert time.monotonic() - began < 5
    assert "Traceback" not in err
    if number != signal.SIGKILL:
        assert first.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert err.rstrip().endswith("interrupted")
        assert list(work.glob("shared-*")) == []
    n_kept = len(list(work.glob("part-*.npy")))
    assert n_kept >= 1
    # With other processes, too: one by one.
    run_words = [word if word != "2" else "1" for word in words]
    done = subprocess.run(
        [sys.executable, "-c", WAITING.replace("60", "0"), *run_words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert f"({n_kept} from an earlier run)" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.vcf.gz", "o.vcf.gz.tbi"]


def test_calls_in_a_worker_are_of_the_kind_that_the_kernels_are_compiled_for(tmp_path):
    """Numba takes a read-only array for another type, and would compile all once more."""
    calls = np.zeros((2, 3), dtype=np.int8)
    rest = dict.fromkeys(("observed", "cm", "exclude", "judges"), np.zeros(3))
    with shared_arrays(tmp_path, calls=calls, **rest) as folder:
        found = PartMaker.of_arrays(folder, None, None)._target.alleles
        assert found.flags.writeable
        found[:] = 1
        assert not np.load(folder / "calls.npy", allow_pickle=False).any()


def test_what_cannot_be_shared_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(workdir, "_save", full)
    with (
        pytest.raises(OutputError, match=rf"{tmp_path}: cannot be written to \(No space left"),
        shared_arrays(tmp_path, calls=np.zeros(3)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_fails_in_a_worker_is_told_as_in_one_process(case, tmp_path):
    panel = tmp_path / "panel.h5"
    panel.write_bytes((case / "panel.h5").read_bytes())

    def damage(task, done, total):
        (tmp_path / "other").write_bytes(b"no panel")
        (tmp_path / "other").replace(panel)

    with pytest.raises(InputError, match=r"panel\.h5: is not a readable HDF5 file"):
        run(case, tmp_path / "o.vcf.gz", panel=panel, jobs=2, progress=damage)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["panel.h5"]


@pytest.mark.parametrize(
    "error",
    [
        OutputError("p: cannot be written", "free space"),
        MemoryError(),
        OSError(28, "No space left on device", "p"),
    ],
)
def test_errors_come_through(error):
    found = impute_jobs.error_from_json(impute_jobs.error_to_json(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)


def test_an_unexpected_error_names_its_kind():
    found = impute_jobs.error_from_json(impute_jobs.error_to_json(ZeroDivisionError("by zero")))
    assert isinstance(found, RuntimeError)
    assert "ZeroDivisionError: by zero" in str(found)


def test_several_processes_share_the_memory(case, tmp_path, caplog):
    caplog.set_level("INFO", logger="snvrag")
    with pytest.raises(UsageError, match="in each of 3 processes needs about") as caught:
        run(case, tmp_path / "o.vcf.gz", jobs=3, max_memory=500 << 20)
    assert "or fewer --jobs" in caught.value.hint
    needed = int(caught.value.hint.split("--max-memory ")[1].split("M")[0]) << 20
    report = run(case, tmp_path / "o.vcf.gz", jobs=3, max_memory=needed)
    assert report.estimated_memory <= needed
    assert any(message.endswith("3 processes, 40 samples") for message in caplog.messages)


@pytest.mark.usefixtures("short_chunks")
def test_parts_of_fewer_processes_are_not_taken_where_the_share_is_too_small(
    case, tmp_path, monkeypatch
):
    work = tmp_path / "work"
    one = run(case, tmp_path / "a.vcf.gz", work_dir=work)
    monkeypatch.setattr(chunks, "_PROCESS_BYTES", 0)
    limit = one.estimated_memory - (180 << 20)
    with pytest.raises(MismatchError, match="larger pieces than --max-memory, --jobs"):
        run(case, tmp_path / "b.vcf.gz", work_dir=work, jobs=64, max_memory=limit)


def test_a_network_on_a_gpu_is_for_one_process(case, tmp_path, monkeypatch):
    whole = ChosenNetwork.open

    def on_gpu(*arguments):
        found = whole(*arguments)
        object.__setattr__(found, "device", "cuda:0")
        return found

    monkeypatch.setattr(imputation.ChosenNetwork, "open", on_gpu)
    with pytest.raises(UsageError, match="--jobs 2: the network runs on cuda:0") as caught:
        run(case, tmp_path / "o.vcf.gz", jobs=2)
    assert "--device cpu" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    run(case, tmp_path / "o.vcf.gz", jobs=1)


def test_the_command_takes_jobs_and_samples(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").write_text("T3\nT1\n")
    words = ["impute", str(case / "target.vcf"), "-r", str(case / "panel.h5"), "--hds"]
    assert run_command([*words, "-o", "a.vcf.gz", "-j", "2", "-S", "names"]) == 0
    one = alone(case, tmp_path / "b.vcf.gz", "--hds", "-s", "T3,T1")
    assert Path("a.vcf.gz").read_bytes() == one
    assert run_command([*words, "-o", "c.vcf.gz", "-s", "T1", "-S", "names"]) == 2
    assert "exclude one another" in capsys.readouterr().err


@pytest.mark.parametrize("n_chunks", [1, 3, 7, 100])
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_groups_cover_all_haplotypes_and_keep_all_processes_busy(n_chunks, jobs):
    planner = chunks.ChunkPlanner.__new__(chunks.ChunkPlanner)
    for n_targets, step in ((2, 1), (400, 1), (400, 64)):
        planner._jobs, planner._n_targets, planner._group_step = jobs, n_targets, step
        edges = planner.edges(n_chunks)
        planner.check_edges(edges)
        sizes = np.diff(edges)
        assert all(edge % step == 0 for edge in edges[:-1])
        assert sizes.max() - sizes.min() <= step
        steps = -(-n_targets // step)
        assert n_chunks * len(sizes) >= min(jobs, n_chunks * steps)
        assert jobs > 1 or len(sizes) == 1
    for bad in ([1, 400], [0, 200], [0, 300, 200, 400], [0, 200, 200, 400]):
        with pytest.raises(ValueError, match="not groups"):
            planner.check_edges(bad)
