import json
import shlex
from pathlib import Path

import pytest
from conftest import mosaic

from snvrag.config import WindowConfig
from snvrag.errors import InputError
from snvrag.index_store import MANIFEST, build_index
from snvrag.provenance import digest_json
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
    path, folder = built
    (folder / "index_3.faiss").unlink()
    for partial in (False, True):
        report = verify(folder, allow_partial=partial)
        assert not report.ok
        assert report.missing == [3]
        assert report.advice == [f"snvrag build-index {path} {folder}/ --windows 3"]


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

    original = Panel.site_alleles

    def changed(self, start, end):
        alleles = original(self, start, end)
        if start == 120:
            alleles[0, 0] ^= 1
        return alleles

    monkeypatch.setattr(Panel, "site_alleles", changed)
    report = verify(moved, panel=path, deep=True)
    assert failed(report) == ["alleles"]
    assert report.stale == [2]


def test_ranges():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert ranges([]) == ""


FORGERIES = [
    ({"windows": None}, ["manifest"]),
    ({"windows": []}, ["manifest"]),
    ({"windows": {"a": {"bytes": 1, "sha256": "x"}}}, ["manifest"]),
    ({"windows": {"-1": {"bytes": 1, "sha256": "x"}}}, ["manifest"]),
    ({"windows": {"0": 3}}, ["manifest"]),
    ({"windows": {"0": {"bytes": "1", "sha256": 3}}}, ["manifest"]),
    ({"windows": {"9": {"bytes": 1, "sha256": "x"}}}, ["index count"]),
    ({"num_windows": "5"}, ["manifest"]),
    ({"num_windows": 0}, ["manifest"]),
    ({"num_windows": 7}, ["index count", "panel"]),
    ({"window_size": True}, ["manifest"]),
    ({"window_size": 100}, ["MAX_SEQ_LEN", "index files", "panel"]),
    ({"window_size": 50}, ["index files"]),
    ({"max_seq_len": 10}, ["MAX_SEQ_LEN"]),
    ({"n_haplotypes": 18}, ["index files", "panel"]),
    ({"n_sites": 249}, ["panel"]),
    ({"panel_digest": None}, ["manifest"]),
    ({"panel_digest": "0"}, ["panel"]),
    ({"kind": None}, ["manifest"]),
    ({"kind": "embedding"}, ["index files"]),
    ({"settings": 3}, ["manifest"]),
]


@pytest.mark.parametrize(("change", "expected"), FORGERIES)
def test_a_forged_manifest_whose_digest_is_right_fails_without_a_crash(built, change, expected):
    _, folder = built
    path = folder / MANIFEST
    data = json.loads(path.read_text()) | change
    del data["digest"]
    path.write_text(json.dumps(data | {"digest": digest_json(data)}))
    report = verify(folder, deep=True)
    assert failed(report) == expected
    assert report.advice
    json.dumps(report.as_json())


def test_the_panel_check_shows_both_values(built):
    _, folder = built
    path = folder / MANIFEST
    data = json.loads(path.read_text()) | {"n_sites": 249}
    del data["digest"]
    path.write_text(json.dumps(data | {"digest": digest_json(data)}))
    detail = next(c.detail for c in verify(folder).checks if c.name == "panel")
    assert "n_sites 250, the indexes have 249" in detail


def test_embedding_indexes_are_checked_for_shape(make_panel, tmp_path):
    from snvrag.run_folder import load_embedder

    path, folder = make_panel(mosaic(20, 70)), tmp_path / "panel.h5.index"
    embedder = load_embedder(None, CONFIG, seed=1)
    build_index(path, config=CONFIG, kind="embedding", embedder=embedder)
    report = verify(folder, deep=True)
    assert report.ok, failed(report)
    assert any("not compared" in check.detail for check in report.checks)
    data = bytearray((folder / "index_1.faiss").read_bytes())
    data[-1] ^= 1
    (folder / "index_1.faiss").write_bytes(data)
    assert verify(folder).corrupt == [1]


def test_advice_survives_odd_names_and_can_be_followed(built, tmp_path):
    path, folder = built
    home = tmp_path / "my data"
    home.mkdir()
    path.rename(home / path.name)
    folder.rename(home / folder.name)
    (home / folder.name / "index_2.faiss").unlink()
    [command] = verify(home / folder.name).advice
    program, name, panel, target, *options = shlex.split(command)
    assert (program, name, options) == ("snvrag", "build-index", ["--windows", "2"])
    build_index(Path(panel), Path(target), windows=options[1], config=CONFIG)
    assert verify(home / folder.name, deep=True).ok
