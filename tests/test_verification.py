import json

import pytest
from conftest import mosaic

from snvrag.config import WindowConfig
from snvrag.errors import InputError
from snvrag.index_store import MANIFEST, build_index
from snvrag.verification import ranges, verify

CONFIG = WindowConfig(60, 64)


@pytest.fixture
def built(make_panel, tmp_path):
    """A panel of 250 sites and its complete index folder, laid out by default names."""
    path = make_panel(mosaic(20, 250))
    build_index(path, config=CONFIG)
    return path, tmp_path / "panel.h5.index"


def failed(report):
    return [check.name for check in report.checks if not check.ok]


def test_a_sound_folder_passes(built):
    path, folder = built
    for options in ({}, {"panel": path}, {"deep": True}, {"allow_partial": True}):
        report = verify(folder, **options)
        assert report.ok, failed(report)
        assert (report.present, report.num_windows) == (5, 5)
    names = [check.name for check in verify(folder, deep=True).checks]
    assert names[:4] == ["version", "manifest", "MAX_SEQ_LEN", "index count"]
    assert {"index files", "panel", "alleles", "GPU memory"} <= set(names)


def test_json_keys(built):
    data = verify(built[1]).as_json()
    assert list(data) == [
        "ok",
        "index_dir",
        "window_size",
        "max_seq_len",
        "num_windows",
        "present",
        "missing",
        "corrupt",
        "stale",
        "checks",
    ]
    assert set(data["checks"][0]) == {"name", "ok", "detail"}
    json.dumps(data)


def test_a_deleted_file_is_missing_even_when_partial_is_allowed(built):
    _, folder = built
    (folder / "index_3.faiss").unlink()
    for partial in (False, True):
        report = verify(folder, allow_partial=partial)
        assert not report.ok
        assert report.missing == [3]
        assert report.advice == [f"snvrag build-index PANEL.h5 {folder}/ --windows 3"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "swap"])
def test_a_damaged_file_is_named(built, damage):
    _, folder = built
    path = folder / "index_1.faiss"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[:10])
    elif damage == "flip":
        data[-1] ^= 4
        path.write_bytes(data)
    else:
        path.write_bytes((folder / "index_2.faiss").read_bytes())
    report = verify(folder)
    assert not report.ok
    assert report.corrupt == [1]
    assert any("index_1.faiss" in check.detail for check in report.checks)


@pytest.mark.parametrize(
    "change",
    [
        {"window_size": 61},
        {"max_seq_len": 10},
        {"num_windows": 4},
        {"panel_digest": "x"},
        {"n_haplotypes": 1},
        {"windows": {}},
        {"format_version": 2},
        {"format_name": "other"},
        {"digest": "x"},
    ],
)
def test_an_edited_manifest_fails(built, change):
    _, folder = built
    data = json.loads((folder / MANIFEST).read_text())
    data.update(change)
    (folder / MANIFEST).write_text(json.dumps(data))
    report = verify(folder)
    assert failed(report) == ["manifest"]
    assert "--force" in report.advice[0]


def test_another_panel_makes_all_stale(built, make_panel):
    _, folder = built
    other = make_panel(mosaic(20, 250, seed=8), "other")
    report = verify(folder, panel=other)
    assert failed(report) == ["panel"]
    assert report.stale == [0, 1, 2, 3, 4]
    other.replace(folder.with_name("panel.h5"))
    assert failed(verify(folder)) == ["panel"]


def test_partial_folders(make_panel, tmp_path):
    path = make_panel(mosaic(20, 250))
    folder = tmp_path / "i"
    build_index(path, folder, windows="0,2", config=CONFIG)
    report = verify(folder)
    assert not report.ok
    assert report.missing == [1, 3, 4]
    assert any("2 of 5 built" in check.detail for check in report.checks)
    assert report.advice == [f"snvrag build-index PANEL.h5 {folder}/ --windows 1,3-4"]
    assert verify(folder, allow_partial=True).ok
    (folder / "index_4.faiss").write_bytes(b"unlisted")
    report = verify(folder, allow_partial=True)
    assert report.ok
    assert report.present == 2
    assert 4 in report.missing


def test_folders_that_are_none(tmp_path):
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError) as caught:
            verify(folder)
        assert "build-index" in caught.value.hint


def test_a_manifest_that_is_gone_or_unreadable_fails(built):
    _, folder = built
    (folder / MANIFEST).write_text("{")
    assert failed(verify(folder)) == ["manifest"]
    (folder / MANIFEST).unlink()
    report = verify(folder)
    assert failed(report) == ["manifest"]
    assert "5 index files" in report.checks[-1].detail


def test_deep_needs_a_panel_and_finds_other_alleles(built, tmp_path, monkeypatch):
    path, folder = built
    moved = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--deep"):
        verify(moved, deep=True)
    from snvrag.panel import Panel

    original = Panel.alleles

    def changed(self, start, end):
        alleles = original(self, start, end)
        if start == 120:
            alleles[0, 0] ^= 1
        return alleles

    monkeypatch.setattr(Panel, "alleles", changed)
    report = verify(moved, panel=path, deep=True)
    assert failed(report) == ["alleles"]
    assert report.stale == [2]


def test_ranges():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert ranges([]) == ""
