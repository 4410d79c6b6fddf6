import json
import logging
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import mosaic

from snvrag.config import WindowConfig
from snvrag.conversion import convert
from snvrag.errors import InputError, MismatchError, OutputError, UsageError
from snvrag.index_store import (
    MANIFEST,
    IndexStore,
    Manifest,
    build_index,
    default_index_dir,
)
from snvrag.panel import Panel
from snvrag.provenance import digest_json
from snvrag.verification import verify
from snvrag.windows import WindowPlan

CONFIG = WindowConfig(60, 64)


@pytest.fixture
def open_store(tmp_path):
    """``open_store(path)`` -> an IndexStore of the panel, in ``tmp_path/index``."""
    panels = []

    def make(path, config=CONFIG, **options):
        panel = Panel.open(path)
        panels.append(panel)
        plan = WindowPlan.from_chromosomes(panel.chromosomes(), config)
        return IndexStore.open(tmp_path / "index", panel, plan, **options)

    yield make
    for panel in panels:
        panel.close()


def jit_lines(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("JIT:")]


def test_first_touch_builds_and_says_so_later_touches_do_not(mosaic_panel, open_store, caplog):
    caplog.set_level(logging.INFO)
    store = open_store(mosaic_panel)
    index = store.get(3)
    assert len(jit_lines(caplog)) == 1
    assert jit_lines(caplog)[0].startswith("JIT: built index for window 3 (80 haplotypes, ")
    assert jit_lines(caplog)[0].endswith(" ms)")
    assert store.get(3) is index
    assert (store.stats.hits, store.stats.misses, store.stats.builds) == (1, 1, 1)
    again = open_store(mosaic_panel)
    again.get(3)
    assert len(jit_lines(caplog)) == 1
    assert again.stats.builds == 0


def test_every_window_holds_its_own_alleles(mosaic_panel, open_store):
    store = open_store(mosaic_panel, budget_bytes=0)
    with Panel.open(mosaic_panel) as panel:
        for number in (0, 4, 1, 0, 4, 2):
            window = store.plan.windows[number]
            stored = store.get(number).alleles(np.arange(80))
            np.testing.assert_array_equal(stored, panel.alleles(window.start, window.end))


def test_memory_keeps_the_most_recent_within_the_budget(mosaic_panel, open_store):
    store = open_store(mosaic_panel, budget_bytes=2 * 80 * 8)
    for number in (0, 1, 0, 2, 0):
        store.get(number)
    assert (store.stats.hits, store.stats.misses) == (2, 3)
    store.get(1)
    assert store.stats.misses == 4


def test_context_joins_window_and_flanks_within_the_chromosome(make_panel, open_store):
    alleles = mosaic(20, 150)
    store = open_store(make_panel(alleles, chroms=["1"] * 100 + ["2"] * 50))
    index, start, end = store.context(1, 1)
    assert (start, end) == (0, 100)
    np.testing.assert_array_equal(index.alleles(np.arange(20)), alleles[:, :100])
    index, start, end = store.context(2, 5)
    assert (start, end) == (100, 150)


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip", "grow", "swap"])
def test_damaged_files_are_rebuilt_never_used(mosaic_panel, open_store, tmp_path, caplog, damage):
    store = open_store(mosaic_panel)
    good = [store.get(w).codes.copy() for w in range(5)]
    path = tmp_path / "index" / "index_2.faiss"
    data = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(data[:-20])
    elif damage == "flip":
        data[100] ^= 1
        path.write_bytes(data)
    elif damage == "grow":
        path.write_bytes(bytes(data) + b"x")
    else:
        path.write_bytes((tmp_path / "index" / "index_1.faiss").read_bytes())
    caplog.set_level(logging.INFO)
    caplog.clear()
    fresh = open_store(mosaic_panel)
    np.testing.assert_array_equal(fresh.get(2).codes, good[2])
    assert fresh.stats.builds == 1
    assert "window 2" in caplog.text
    assert len(jit_lines(caplog)) == 1
    np.testing.assert_array_equal(open_store(mosaic_panel).get(2).codes, good[2])


def test_a_file_the_manifest_does_not_list_counts_as_not_built(mosaic_panel, open_store, tmp_path):
    store = open_store(mosaic_panel)
    (tmp_path / "index" / "index_0.faiss").write_bytes(b"planted")
    store.get(0)
    assert store.stats.builds == 1


def edit_manifest(folder, **changes):
    path = folder / MANIFEST
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "change",
    [{"panel_digest": "0"}, {"window_size": 50}, {"n_haplotypes": 3}, {"windows": {}}, {"x": 1}],
)
def test_an_edited_manifest_is_refused(mosaic_panel, open_store, tmp_path, change):
    open_store(mosaic_panel).get(0)
    edit_manifest(tmp_path / "index", **change)
    with pytest.raises(InputError, match="digest does not match") as caught:
        open_store(mosaic_panel)
    assert "--force" in caught.value.hint


def test_another_format_version_is_refused(mosaic_panel, open_store, tmp_path):
    open_store(mosaic_panel).get(0)
    edit_manifest(tmp_path / "index", format_version=2)
    with pytest.raises(InputError, match="version 2"):
        open_store(mosaic_panel)
    (tmp_path / "index" / MANIFEST).write_text("{}")
    with pytest.raises(InputError, match="format None"):
        open_store(mosaic_panel)


def test_indexes_of_another_panel_or_window_size_are_refused(mosaic_panel, open_store, make_panel):
    open_store(mosaic_panel).get(0)
    other = make_panel(mosaic(80, 250, seed=7))
    with pytest.raises(MismatchError, match="panel_digest") as caught:
        open_store(other)
    assert "snvrag build-index" in caught.value.hint
    with pytest.raises(MismatchError, match="window_size 60, needed is 50"):
        open_store(mosaic_panel, WindowConfig(50, 64))
    store = open_store(other, force=True)
    store.get(0)
    assert store.stats.builds == 1


def test_a_forged_manifest_with_a_right_digest_cannot_pass_off_other_alleles(
    mosaic_panel, open_store, tmp_path
):
    """A file of another shape is refused even where its digest is listed."""
    store = open_store(mosaic_panel)
    store.get(0)
    folder = tmp_path / "index"
    manifest = Manifest.read(folder)
    from snvrag.retrieval import BinaryIndex

    data = BinaryIndex.build(mosaic(10, 60), 60).to_bytes()
    (folder / "index_0.faiss").write_bytes(data)
    import hashlib

    manifest.windows[0] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write(folder)
    fresh = open_store(mosaic_panel)
    assert fresh.get(0).n_haplotypes == 80
    assert fresh.stats.builds == 1


def test_a_folder_that_cannot_be_written_says_how_to_choose_another(mosaic_panel, tmp_path):
    (tmp_path / "index").write_text("a file")
    with Panel.open(mosaic_panel) as panel:
        plan = WindowPlan.from_chromosomes(panel.chromosomes(), CONFIG)
        with pytest.raises(OutputError) as caught:
            IndexStore.open(tmp_path / "index", panel, plan)
    assert "-i" in caught.value.hint


def test_build_index_reports_and_continues(mosaic_panel, tmp_path):
    folder = tmp_path / "i"
    seen = []
    report = build_index(
        mosaic_panel,
        folder,
        windows="1-2",
        config=CONFIG,
        progress=lambda *p: seen.append(p),
    )
    assert (report.built, report.reused, report.num_windows) == (2, 0, 5)
    assert [p[1:] for p in seen] == [(1, 2), (2, 2)]
    report = build_index(mosaic_panel, folder, config=CONFIG)
    assert (report.built, report.reused) == (3, 2)
    assert report.bytes == sum(p.stat().st_size for p in folder.glob("index_*.faiss"))
    assert build_index(mosaic_panel, folder, config=CONFIG, force=True).built == 5
    with pytest.raises(UsageError, match="--windows"):
        build_index(mosaic_panel, folder, windows="9", config=CONFIG)
    assert default_index_dir(mosaic_panel).name == "panel.h5.index"


def test_an_interrupted_build_leaves_a_usable_folder(mosaic_panel, tmp_path):
    def interrupt(task, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(mosaic_panel, tmp_path / "i", config=CONFIG, progress=interrupt)
    assert not list((tmp_path / "i").glob("*.tmp"))
    report = build_index(mosaic_panel, tmp_path / "i", config=CONFIG)
    assert (report.built, report.reused) == (3, 2)


BUILD = """
import sys
from pathlib import Path
from snvrag.config import WindowConfig
from snvrag.index_store import build_index
print(build_index(Path(sys.argv[1]), Path(sys.argv[2]), config=WindowConfig(10, 64)).built)
"""
TOUCH = """
import sys
from pathlib import Path
import numpy as np
from snvrag.config import WindowConfig
from snvrag.index_store import IndexStore
from snvrag.panel import Panel
from snvrag.windows import WindowPlan
with Panel.open(sys.argv[1]) as panel:
    plan = WindowPlan.from_chromosomes(panel.chromosomes(), WindowConfig(10, 64))
    with IndexStore.open(Path(sys.argv[2]), panel, plan) as store:
        for window in np.random.default_rng(int(sys.argv[3])).permutation(plan.num_windows):
            store.get(int(window))
    print(store.stats.builds)
"""


def test_eight_processes_can_fill_one_folder_at_once(mosaic_panel, tmp_path):
    """Six touch windows in an order of their own, as training does; two build all."""
    folder = tmp_path / "i"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(mosaic_panel), str(folder), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number, script in enumerate([TOUCH] * 6 + [BUILD] * 2)
    ]
    results = [p.communicate(timeout=120) for p in running]
    assert all(p.returncode == 0 for p in running), results
    assert sum(int(out) for out, _ in results) == 25
    assert verify(folder, panel=mosaic_panel, deep=True).ok
    assert not list(folder.glob("*.tmp"))


def test_embedding_kind_records_what_it_depends_on(mosaic_panel, tmp_path):
    from snvrag.run_folder import load_embedder

    folder = tmp_path / "e"
    embedder = load_embedder(None, CONFIG, seed=1)
    report = build_index(
        mosaic_panel, folder, windows="0", config=CONFIG, kind="embedding", embedder=embedder
    )
    assert report.bytes > 80 * 64 * 64 * 4
    settings = Manifest.read(folder).identity["settings"]
    assert settings["weights_fingerprint"] == embedder.fingerprint
    assert settings["mask_rate"] == 0.5
    again = build_index(
        mosaic_panel, folder, windows="0", config=CONFIG, kind="embedding", embedder=embedder
    )
    assert again.reused == 1
    with pytest.raises(MismatchError, match="settings"):
        build_index(
            mosaic_panel,
            folder,
            config=CONFIG,
            kind="embedding",
            embedder=load_embedder(None, CONFIG, seed=2),
        )
    with pytest.raises(MismatchError, match="kind"):
        build_index(mosaic_panel, folder, config=CONFIG)


def test_manifest_digest_covers_everything_but_itself(mosaic_panel, open_store, tmp_path):
    open_store(mosaic_panel).get(0)
    data = json.loads((tmp_path / "index" / MANIFEST).read_text())
    digest = data.pop("digest")
    assert digest == digest_json(data)
    assert data["n_haplotypes"] == 80
    assert set(data["windows"]["0"]) == {"bytes", "sha256"}


MANY = WindowConfig(2, 64)  # 125 windows: more than are listed one by one


@pytest.mark.parametrize("damage", ["delete", "truncate"])
def test_a_damaged_file_is_reported_once(mosaic_panel, open_store, tmp_path, caplog, damage):
    open_store(mosaic_panel).get(2)
    path = tmp_path / "index" / "index_2.faiss"
    path.unlink() if damage == "delete" else path.write_bytes(b"short")
    store = open_store(mosaic_panel)
    caplog.clear()
    store.get(2)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("window 2: index_2.faiss ")


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_folder_emptied_while_in_use_is_built_again(
    mosaic_panel, open_store, tmp_path, caplog, how
):
    """The guide's Q3: JIT lines come back when the index folder was emptied."""
    store = open_store(mosaic_panel, budget_bytes=0)
    store.get(0)
    folder = tmp_path / "index"
    shutil.rmtree(folder)
    if how == "emptied":
        folder.mkdir()
    store.get(1)
    store.get(0)
    assert "emptied" in caplog.text
    assert store.stats.builds == 3
    assert sorted(Manifest.read(folder).windows) == [0, 1]


def test_a_folder_taken_over_by_another_panel_is_refused(mosaic_panel, open_store, make_panel):
    store = open_store(mosaic_panel, budget_bytes=0)
    store.get(0)
    open_store(make_panel(mosaic(80, 250, seed=7)), force=True)
    with pytest.raises(MismatchError, match="replaced while in use"):
        store.get(1)


def test_two_stores_list_what_both_built(mosaic_panel, open_store, tmp_path):
    with open_store(mosaic_panel, MANY) as a, open_store(mosaic_panel, MANY) as b:
        for window in range(125):
            (a if window % 3 else b).get(window)
    assert len(Manifest.read(tmp_path / "index").windows) == 125
    with open_store(mosaic_panel, MANY) as again:
        for window in range(125):
            again.get(window)
        assert again.stats.builds == 0


def test_the_manifest_is_not_rewritten_for_every_window(mosaic_panel, tmp_path, monkeypatch):
    writes = []
    original = Manifest.write

    def counted(self, folder):
        writes.append(len(self.windows))
        original(self, folder)

    monkeypatch.setattr(Manifest, "write", counted)
    build_index(mosaic_panel, tmp_path / "i", config=WindowConfig(1, 64))
    assert writes[-1] == 250
    assert len(writes) < 150


def test_an_interruption_between_two_listings_loses_nothing(mosaic_panel, tmp_path):
    def interrupt(task, done, total):
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(mosaic_panel, tmp_path / "i", config=MANY, progress=interrupt)
    report = build_index(mosaic_panel, tmp_path / "i", config=MANY)
    assert (report.built, report.reused) == (25, 100)


def test_a_killed_build_is_continued(mosaic_panel, tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from snvrag.index_store import build_index;"
        "from snvrag.config import WindowConfig;"
        "build_index(Path(sys.argv[1]), Path(sys.argv[2]), config=WindowConfig(2, 64),"
        " progress=lambda *p: time.sleep(.01))"
    )
    folder = tmp_path / "i"
    process = subprocess.Popen([sys.executable, "-c", script, str(mosaic_panel), str(folder)])
    deadline = time.monotonic() + 60
    while not (folder / "index_40.faiss").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    report = build_index(mosaic_panel, folder, config=MANY)
    assert report.reused >= 35
    assert report.built + report.reused == 125


def test_force_rebuilds_the_selected_windows_and_spares_the_others(mosaic_panel, tmp_path):
    folder = tmp_path / "i"
    build_index(mosaic_panel, folder, config=CONFIG)
    report = build_index(mosaic_panel, folder, windows="1,3", config=CONFIG, force=True)
    assert (report.built, report.reused) == (2, 0)
    assert build_index(mosaic_panel, folder, config=CONFIG).reused == 5


def test_force_replaces_a_damaged_manifest(mosaic_panel, tmp_path):
    folder = tmp_path / "i"
    build_index(mosaic_panel, folder, config=CONFIG)
    (folder / MANIFEST).write_text("{")
    report = build_index(mosaic_panel, folder, windows="1", config=CONFIG, force=True)
    assert report.built == 1
    assert sorted(p.name for p in folder.glob("index_*")) == ["index_1.faiss"]


@pytest.mark.parametrize(
    "windows", [None, [], {"a": {}}, {"0": 3}, {"0": {"bytes": "1", "sha256": "x"}}]
)
def test_a_forged_window_list_is_refused(mosaic_panel, open_store, tmp_path, windows):
    open_store(mosaic_panel)
    path = tmp_path / "index" / MANIFEST
    data = json.loads(path.read_text()) | {"windows": windows}
    del data["digest"]
    path.write_text(json.dumps(data | {"digest": digest_json(data)}))
    with pytest.raises(InputError, match="unusable window") as caught:
        open_store(mosaic_panel)
    assert "--force" in caught.value.hint


def test_an_unknown_kind_and_a_missing_embedding_are_named(mosaic_panel, tmp_path):
    with pytest.raises(UsageError, match="--kind other: unknown kind"):
        build_index(mosaic_panel, tmp_path / "i", config=CONFIG, kind="other")
    with pytest.raises(UsageError, match="needs an embedding"):
        build_index(mosaic_panel, tmp_path / "i", config=CONFIG, kind="embedding")
    assert not (tmp_path / "i").exists()


def test_all_windows_of_the_real_panel_are_built_in_a_moment(dev_folder, tmp_path):
    convert(dev_folder / "panel.vcf.gz", tmp_path / "p.h5")
    report = build_index(tmp_path / "p.h5")
    assert report.built == report.num_windows == 35
    assert report.seconds < 2
    assert build_index(tmp_path / "p.h5").reused == 35


def test_an_index_just_built_takes_no_more_memory_than_one_read(mosaic_panel, open_store):
    built = open_store(mosaic_panel).get(0)
    read = open_store(mosaic_panel).get(0)
    assert built._flat is read._flat is None
    np.testing.assert_array_equal(built.codes, read.codes)
