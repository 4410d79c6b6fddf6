"""Kills, signals, full disks and changed inputs at moments that once did harm, or could."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import mosaic, write_panel_and_truth, write_vcf
from safetensors import SafetensorError

from snvrag import checkpoint, compiling, imputed_file, provenance, trainer
from snvrag.chunks import Plan
from snvrag.cli.app import run as run_command
from snvrag.config import WindowConfig, run_config
from snvrag.conversion import convert
from snvrag.errors import InputError, MismatchError, OutputError
from snvrag.folder_lock import LOCK, folder_lock
from snvrag.imputation import impute
from snvrag.imputed_file import check_imputed_output, new_imputed_file
from snvrag.index_store import build_index
from snvrag.merging import merge
from snvrag.panel import Panel
from snvrag.provenance import check_output_file
from snvrag.run_events import EventLog
from snvrag.run_log import RunLog
from snvrag.training import train
from snvrag.unfailing_file import UnfailingFile
from snvrag.windows import WindowPlan
from snvrag.workdir import work_directory

FULL = Path("/dev/full")
NEEDS_FULL = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A panel of 20 samples and 300 sites, and 2 others as target."""
    folder = tmp_path_factory.mktemp("reliability")
    write_panel_and_truth(folder, mosaic(44, 300), 40)
    return folder


def python(script, *words, **options):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=ENVIRONMENT,
        **options,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# A disk that is full


def test_hdf5_is_not_told_of_a_failed_write_and_reads_back_what_it_wrote(tmp_path, monkeypatch):
    file = UnfailingFile(tmp_path / "a")
    file.write(memoryview(b"0123456789"))
    real, left = os.pwrite, [1]

    def full(descriptor, data, offset):
        if not left:
            raise OSError(28, "No space left on device")
        left.pop()
        return real(descriptor, data[:2], offset)

    monkeypatch.setattr(os, "pwrite", full)
    file.check()
    file.seek(8)
    assert file.write(memoryview(b"abcd")) == 4
    file.seek(20)
    file.write(memoryview(b"z"))
    file.seek(0)
    found = bytearray(30)
    assert file.readinto(memoryview(found)) == 21
    assert bytes(found[:21]) == b"01234567abcd" + bytes(8) + b"z"
    assert file.seek(0, os.SEEK_END) == file.tell() == 21
    file.truncate(2)
    with pytest.raises(OSError, match="No space left on device"):
        file.check()
    file.close()
    assert (tmp_path / "a").read_bytes() == b"01234567ab"


def test_a_panel_that_does_not_fit_ends_convert_with_a_sentence(case, tmp_path):
    """HDF5 alone ends in a segmentation fault there."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))

    script = "from snvrag.cli.entry import main; main()"
    done = python(script, "convert", case / "panel.vcf", "-o", tmp_path / "p.h5", preexec_fn=limit)
    assert done.returncode == 2
    expected = f"error: {tmp_path}/p.h5: cannot be written (File too large)\nhint: "
    assert done.stderr.startswith(expected)
    assert len(done.stderr.splitlines()) == 2
    assert names(tmp_path) == []


def test_weights_that_do_not_fit_are_told(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match=r"w: cannot be written \(I/O error: No space left"):
        checkpoint.save_weights(checkpoint.nn.Linear(1, 1), tmp_path / "w")
    assert names(tmp_path) == []


def test_a_line_that_was_cut_short_is_ended_before_the_next(tmp_path):
    path = tmp_path / "log"
    for before, after in (("", "x\n"), ("a\n", "a\nx\n"), ("a\nb", "a\nb\nx\n")):
        path.write_text(before)
        text = provenance.GrowingText(path)
        text.write("x")
        text.close()
        assert path.read_text() == after
    reader, writer = os.pipe()
    text = provenance.GrowingText(Path(f"/dev/fd/{writer}"))
    text.write("x")
    text.close()
    os.close(writer)
    assert os.read(reader, 9) == b"x\n"
    os.close(reader)


@NEEDS_FULL
def test_a_run_whose_log_cannot_be_written_ends_with_a_sentence():
    with (
        pytest.raises(OutputError, match=r"/dev/full: the log cannot be written \(No space left"),
        RunLog(FULL, None, 1) as log,
    ):
        log.write("INFO", "a line")


@NEEDS_FULL
def test_a_full_disk_under_the_log_file_is_told_once_and_stops_nothing(case, tmp_path, capsys):
    words = ["build-index", str(case / "panel.h5"), str(tmp_path / "i"), "--log-file", str(FULL)]
    assert run_command(words) == 0
    err = capsys.readouterr().err
    assert err.count("/dev/full: the log file ends here, it cannot be written (No space") == 1
    assert "Traceback" not in err


@NEEDS_FULL
def test_results_that_cannot_be_printed_are_an_error(case):
    script = "from snvrag.cli.entry import main; main()"
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script, "windows", "--total-snps", "100", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=ENVIRONMENT,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "no space left" in done.stderr.lower()
    assert "ignored" not in done.stderr


@NEEDS_FULL
def test_a_run_whose_events_cannot_be_written_ends_with_a_sentence(case):
    with Panel.open(case / "panel.h5") as panel:
        plan = WindowPlan.from_chromosomes(panel.chromosomes())
        with (
            pytest.raises(OutputError, match=r"/dev/full: cannot be written \(No space left"),
            EventLog(FULL, panel, plan, None) as log,
        ):
            log.on_start({})


# Signals


AT_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.{name})
sys.meta_path.insert(0, Finder())
from snvrag.cli.entry import main
main()
"""
AT_THE_END = """
import atexit, os, signal
atexit.register(lambda: os.kill(os.getpid(), signal.{name}))
from snvrag.cli.entry import main
main()
"""
IN_CLEARING_UP = """
import os, signal, time
from snvrag import index_store
from snvrag.cli.entry import main
whole = index_store.IndexStore.close
def close(self):
    os.kill(os.getpid(), signal.{name})
    time.sleep(0.1)
    whole(self)
index_store.IndexStore.close = close
def build(self, window):
    os.kill(os.getpid(), signal.{name})
    time.sleep(5)
index_store.IndexStore._build = build
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("script", [AT_IMPORT, AT_THE_END, IN_CLEARING_UP])
def test_a_signal_is_one_word_whenever_it_comes(case, tmp_path, name, code, script):
    words = ("build-index", case / "panel.h5", tmp_path / "i", "--quiet")
    done = python(script.format(name=name), *words)
    through = script == AT_THE_END
    assert done.returncode == (0 if through else code), done.stderr
    assert done.stderr == ("" if through else "interrupted\n")


def test_a_background_process_goes_on_ignoring_ctrl_c(tmp_path):
    script = (
        "import os, signal\nfrom snvrag.cli import interruption\n"
        "interruption.catch(); os.kill(os.getpid(), signal.SIGINT); print('on')"
    )
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    assert python(script, **ignore).stdout == "on\n"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without an end")
def test_hashing_a_large_source_is_given_up_with_the_conversion():
    given_up = threading.Event()
    threading.Timer(0.05, given_up.set).start()
    assert len(provenance.sha256_file(Path("/dev/zero"), given_up=given_up)) == 64


# What a killed process leaves


def dead_pid():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_leftovers_of_a_killed_process_go_and_those_of_others_stay(tmp_path):
    here, dead, alive = provenance._where_pids_count(), dead_pid(), os.getpid()
    gone = [
        f".a.h5.{here}-{dead}-0123abcd.tmp",
        f".a.h5.{here}-{dead}-0123abcd.tmp.tbi",
        f".snvrag-probe.{here}-{dead}-0123abcd.tmp",
    ]
    stay = [
        f".a.h5.{here}-{alive}-0123abcd.tmp",
        f".a.h5.{'0' * 8}-{dead}-0123abcd.tmp",
        f".b.h5.{here}-{dead}-0123abcd.tmp",
        ".a.h5.tmp",
    ]
    for name in gone + stay:
        (tmp_path / name).touch()
    check_output_file(tmp_path / "a.h5")
    assert names(tmp_path) == sorted(stay)
    with provenance.atomic_file(tmp_path / "a.h5") as temporary:
        assert provenance._PID.match(temporary.name, len(".a.h5"))
        temporary.touch()


def test_leftovers_in_an_index_folder_go_with_the_next_process(case, tmp_path):
    folder = tmp_path / "i"
    folder.mkdir()
    probe = f".snvrag-probe.{provenance._where_pids_count()}-{dead_pid()}-0123abcd.tmp"
    for name in (".index_3.faiss.0-1-2.tmp", ".manifest.json.0-1-2.tmp", probe):
        (folder / name).touch()
    build_index(case / "panel.h5", folder)
    assert names(folder) == [".lock", "index_0.faiss", "manifest.json"]


def test_a_work_directory_that_holds_other_things_keeps_them(tmp_path):
    own = [".plan.json.0-1-2.tmp", ".part-00003.npy.0-1-2.tmp", "shared-0123abcd"]
    others = [".a.vcf.gz.0-1-2.tmp", ".notes.tmp", "part-of-it.npy", "shared-data", "shared-me"]
    for name in own + others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with work_directory(tmp_path, {}, Plan([], [0]), force=True, keep=True):
        assert names(tmp_path) == sorted([".lock", "plan.json", *others])
    assert names(tmp_path) == sorted([".lock", "plan.json", *others])


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(OutputError, match="device or a pipe"):
            check_output_file(path, force=True)


class Writer:
    """Stands in for what writes a file and its index."""

    def __init__(self, path, text):
        self.path, self.text = path, text
        path.write_text(text)

    def finish(self):
        index = self.path.with_name(self.path.name + ".tbi")
        index.write_text(self.text)
        return index

    def abort(self):
        pass


@pytest.mark.parametrize("replaces", [False, True])
def test_an_index_never_lies_beside_another_file_than_its_own(tmp_path, monkeypatch, replaces):
    output, index = tmp_path / "o.vcf.gz", tmp_path / "o.vcf.gz.tbi"
    if replaces:
        output.write_text("old")
        index.write_text("old")
        (tmp_path / "o.vcf.gz.csi").write_text("old")
    seen = []

    def look(event, _):
        if event in {"os.rename", "os.remove"} and threading.current_thread() is main:
            seen.append({p.name: p.read_text() for p in (output, index) if p.exists()})

    main = threading.current_thread()
    looking = [True]
    sys.addaudithook(lambda *found: look(*found) if looking else None)
    with new_imputed_file(output, lambda path: Writer(path, "new")):
        pass
    looking.clear()
    assert names(tmp_path) == ["o.vcf.gz", "o.vcf.gz.tbi"]
    assert index.read_text() == output.read_text() == "new"
    assert len(seen) > 2
    assert all(len(set(files.values())) <= 1 for files in seen)
    # A new output has its index from the first.
    assert replaces or not any(set(files) == {"o.vcf.gz"} for files in seen)


@pytest.mark.parametrize("fails", ["finish", "sync"])
def test_neither_file_nor_index_is_left_of_what_failed(tmp_path, monkeypatch, fails):
    class Failing(Writer):
        def finish(self):
            index = super().finish()
            if fails == "finish":
                raise OSError(28, "No space left on device")
            return index

    def sync(path):
        raise OSError(5, "Input/output error")

    if fails == "sync":
        monkeypatch.setattr(provenance, "sync", sync)
    with (
        pytest.raises(OutputError, match=r"o\.vcf\.gz: cannot be written"),
        new_imputed_file(tmp_path / "o.vcf.gz", lambda path: Failing(path, "new")),
    ):
        pass
    assert names(tmp_path) == []


def test_an_index_without_its_file_is_in_nobodys_way(tmp_path):
    output = tmp_path / "o.bcf"
    (tmp_path / "o.bcf.csi").touch()
    check_imputed_output(output, None, (), force=False)
    output.touch()
    with pytest.raises(OutputError, match="exists already"):
        check_imputed_output(output, None, (), force=False)


def test_index_and_file_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(imputed_file, "sync", lambda path: synced.append(path.name))
    with new_imputed_file(tmp_path / "o.vcf.gz", lambda path: Writer(path, "new")):
        pass
    assert [name.endswith(".tmp.tbi") for name in synced] == [True]


def test_what_is_interrupted_in_its_removal_is_removed(tmp_path, monkeypatch):
    whole, interrupted = Path.unlink, []

    def unlink(path, **options):
        if not interrupted:
            interrupted.append(path)
            raise KeyboardInterrupt
        whole(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        check_output_file(tmp_path / "a.h5")
    assert names(tmp_path) == []


def test_a_folder_is_never_there_with_some_of_its_files(tmp_path, monkeypatch):
    folder = tmp_path / "step-1"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).touch()
    whole, seen = shutil.rmtree, []

    def rmtree(path, **options):
        seen.append(names(tmp_path))
        whole(path, **options)
        if len(seen) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(KeyboardInterrupt):
        provenance.remove_whole(folder)
    ((aside,),) = seen
    assert aside.startswith(".step-1.")
    assert aside.endswith(".tmp")
    assert names(tmp_path) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_work_directory_without_parts_is_removed(case, tmp_path, monkeypatch, there):
    from snvrag import workdir

    def interrupt(*_):
        raise KeyboardInterrupt

    if there:
        # As a process leaves it that is killed before its first part.
        (tmp_path / "o.vcf.gz.work").mkdir()
        (tmp_path / "o.vcf.gz.work" / "plan.json").write_text("{}")
    monkeypatch.setattr(workdir, "write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        impute(case / "truth.vcf", case / "panel.h5", tmp_path / "o.vcf.gz")
    assert names(tmp_path) == []


def test_the_learning_rate_of_an_epoch_resumed_at_its_end_is_told(case, tmp_path, monkeypatch):
    settings = {"preset": "light", "epochs": 2, "epoch_batches": 2, "checkpoint_every": 2}
    config = run_config({**settings, "bank": "default", "validation_items": 4})
    whole = trainer.write_metrics

    def rows(run):
        return [json.loads(x)["lr"] for x in (run / "metrics.jsonl").read_text().splitlines()]

    train(case / "panel.h5", tmp_path / "a", config=config, index_dir=tmp_path / "i", device="cpu")

    def interrupt(*_, **__):
        monkeypatch.setattr(trainer, "write_metrics", whole)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "write_metrics", interrupt)
    words = {"config": config, "index_dir": tmp_path / "i", "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        train(case / "panel.h5", tmp_path / "b", **words)
    train(case / "panel.h5", tmp_path / "b", **words, resume=True)
    assert rows(tmp_path / "b") == rows(tmp_path / "a")


# Files that change while they are read


def copied(case, tmp_path, name):
    path = tmp_path / name
    path.write_bytes((case / name).read_bytes())
    return path


def rewrite(path):
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))


def test_a_panel_written_to_while_impute_reads_it_is_noticed(case, tmp_path):
    panel = copied(case, tmp_path, "panel.h5")

    def write(task, done, total):
        if task == "imputing":
            rewrite(panel)

    with pytest.raises(InputError, match=r"panel\.h5: was changed while it was being read"):
        impute(case / "truth.vcf", panel, tmp_path / "o.vcf.gz", progress=write)
    assert names(tmp_path) == ["panel.h5"]


def test_a_panel_replaced_while_it_is_read_is_read_to_its_end(case, tmp_path):
    panel = copied(case, tmp_path, "panel.h5")
    with Panel.open(panel) as opened:
        before = opened.genotypes(0, 300)
        (tmp_path / "new").write_bytes(b"another")
        (tmp_path / "new").replace(panel)
        opened.check_unchanged()
        np.testing.assert_array_equal(opened.genotypes(0, 300), before)


def test_a_panel_written_to_while_it_is_indexed_is_noticed(case, tmp_path):
    panel = copied(case, tmp_path, "panel.h5")
    with pytest.raises(InputError, match=r"panel\.h5: was changed while it was being read"):
        build_index(
            panel,
            tmp_path / "i",
            config=WindowConfig(60, 64),
            progress=lambda *_: rewrite(panel),
        )
    assert not list((tmp_path / "i").glob("index_1*"))


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_source_changed_while_it_is_converted_is_noticed(case, tmp_path, how):
    source = copied(case, tmp_path, "panel.vcf")

    def change(task, done, total):
        if how == "written":
            rewrite(source)
        else:
            copied(case, tmp_path, "truth.vcf").replace(source)

    with pytest.raises(InputError, match=r"panel\.vcf: was changed while it was being read"):
        convert(source, tmp_path / "p.h5", progress=change)
    assert names(tmp_path) == ["panel.vcf"]


def test_a_batch_changed_while_it_is_merged_is_noticed(case, tmp_path):
    batch = tmp_path / "b.vcf.gz"
    impute(case / "truth.vcf", case / "panel.h5", batch, hds=True)
    with pytest.raises(InputError, match=r"b\.vcf\.gz: was changed while it was being read"):
        merge([batch], tmp_path / "o.vcf.gz", progress=lambda *_: rewrite(batch))
    assert names(tmp_path) == ["b.vcf.gz", "b.vcf.gz.tbi"]


def test_processes_of_one_run_do_not_impute_from_two_panels(case, tmp_path):
    panel = copied(case, tmp_path, "panel.h5")
    convert(write_vcf(tmp_path / "x.vcf", 1 - mosaic(40, 300), spacing=100), tmp_path / "x.h5")

    def replace(task, done, total):
        if (tmp_path / "x.h5").exists() and task == "reading":
            (tmp_path / "x.h5").replace(panel)

    with pytest.raises(MismatchError, match="was replaced while in use"):
        impute(
            case / "truth.vcf", panel, tmp_path / "o.vcf.gz", jobs=2, threads=2, progress=replace
        )
    assert names(tmp_path) == ["panel.h5", "x.vcf"]


# Compiled code that is kept


KERNEL = "from snvrag.compiling import compiled\n@compiled()\ndef f(x):\n    return x + {n}\n"


def compiled_answer(folder):
    script = "import sys; sys.path.insert(0, sys.argv[1]); import kernel; print(kernel.f(1))"
    done = python(script, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_damaged_compiled_code_is_compiled_again(tmp_path, kind):
    (tmp_path / "kernel.py").write_text(KERNEL.format(n=1))
    assert compiled_answer(tmp_path) == ("2", "")
    (kept,) = (tmp_path / "__pycache__").glob(f"*.{kind}")
    kept.write_bytes(b"")
    answer, told = compiled_answer(tmp_path)
    assert answer == "2"
    assert "compiled code cannot be read" in told
    assert compiled_answer(tmp_path) == ("2", "")


def test_code_compiled_from_older_sources_goes_before_its_index(tmp_path):
    """An index just written lists a number under which older code may lie still."""
    for name in ("f.nbi", "f.1.nbc", "f.1.nbc.tmp.0123", "other.py"):
        (tmp_path / name).touch()
    compiling._drop_stale(tmp_path, tmp_path)
    assert names(tmp_path) == ["other.py", "snvrag-sources.sha256"]


# Two processes


def test_the_holder_of_a_folder_is_named(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom snvrag.folder_lock import folder_lock\n"
        "sys.argv[0] = '/usr/bin/snvrag'\n"
        "with folder_lock(Path(sys.argv[1]), ''):\n print('held', flush=True)\n input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), "train", "a b.h5", "x" * 9000],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(MismatchError) as caught, folder_lock(tmp_path, "wait"):
            pass
        holder.communicate("\n")
    said = caught.value.message
    assert f"is in use by process {holder.pid} on {os.uname().nodename} since 2" in said
    assert f"(snvrag {tmp_path} train 'a b.h5' xx" in said
    assert len(said) < 400
    with folder_lock(tmp_path, "wait"):
        (tmp_path / LOCK).write_text("123")
        with (
            pytest.raises(MismatchError, match=r"in use by process 123$"),
            folder_lock(tmp_path, "wait"),
        ):
            pass


@pytest.mark.parametrize("when", ["open", "pwrite"])
def test_a_folder_whose_locking_is_interrupted_is_removed(tmp_path, monkeypatch, when):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, when, interrupt)
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path / "w", "wait"):
        pass
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_a_lock_that_a_full_disk_refuses_leaves_no_folder(tmp_path, monkeypatch):
    def full(descriptor, data, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="No space left"), folder_lock(tmp_path / "w", "wait"):
        pass
    assert names(tmp_path) == []
    (tmp_path / "w").mkdir()
    with pytest.raises(OutputError, match="No space left"), folder_lock(tmp_path / "w", "wait"):
        pass
    assert names(tmp_path) == ["w"]


def test_a_lock_whose_folder_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    folder, removed = tmp_path / "w", []
    import fcntl

    whole = fcntl.flock

    def flock(descriptor, how):
        if not removed:
            removed.append(True)
            (folder / LOCK).unlink()
            folder.rmdir()
        whole(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder_lock(folder, "wait"):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()


def test_a_file_system_without_locks_is_a_warning(case, tmp_path, monkeypatch, caplog):
    def flock(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with folder_lock(tmp_path / "w", "wait"):
        assert names(tmp_path / "w") == [LOCK]
    size = WindowConfig(window_size=40, max_seq_len=41)
    report = build_index(case / "panel.h5", tmp_path / "i", config=size)
    assert report.built == report.num_windows > 1
    told = [record.getMessage() for record in caplog.records if "no locks" in record.getMessage()]
    assert len(told) == 2, "one for each folder"


def test_two_conversions_onto_one_file_leave_a_whole_one(case, tmp_path):
    def another(task, done, total):
        convert(case / "truth.vcf", tmp_path / "p.h5")

    convert(case / "panel.vcf", tmp_path / "p.h5", progress=another)
    assert names(tmp_path) == ["p.h5"]
    with Panel.open(tmp_path / "p.h5") as last, Panel.open(case / "panel.h5") as expected:
        assert last.digest == expected.digest
