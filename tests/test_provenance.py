import json
import os

import pytest

from snvrag.errors import InputError, OutputError
from snvrag.provenance import (
    atomic_file,
    atomic_folder,
    check_output_file,
    digest_json,
    prepare_output_folder,
    read_json,
    write_json,
)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_complete_write_replaces(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_folder_is_absent(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "d") as temporary:
        (temporary / "x").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "d") as temporary:
        (temporary / "x").write_text("whole")
    assert (tmp_path / "d" / "x").read_text() == "whole"


@pytest.fixture
def synced(monkeypatch):
    """Inodes in the order in which they were waited for."""
    seen, fsync = [], os.fsync

    def record(descriptor):
        seen.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return seen


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, synced):
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert synced == []
    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]
    with atomic_file(tmp_path / "b", durable=False) as temporary:
        temporary.write_text("new")
    assert len(synced) == 2


def test_a_folder_is_on_the_disk_with_all_its_files(tmp_path, synced):
    path = tmp_path / "d"
    with atomic_folder(path) as temporary:
        (temporary / "x").write_text("1")
        (temporary / "y").write_text("2")
    assert set(synced[:2]) == {(path / name).stat().st_ino for name in ("x", "y")}
    assert synced[2:] == [path.stat().st_ino, tmp_path.stat().st_ino]


def test_output_checks(tmp_path):
    existing = tmp_path / "a.h5"
    existing.touch()
    with pytest.raises(OutputError, match="exists already"):
        check_output_file(existing)
    check_output_file(existing, force=True)
    with pytest.raises(OutputError, match="does not exist"):
        check_output_file(tmp_path / "no" / "a.h5")
    with pytest.raises(OutputError, match="is a folder"):
        check_output_file(tmp_path, force=True)
    with pytest.raises(OutputError, match="cannot be created"):
        prepare_output_folder(existing)
    with pytest.raises(OutputError, match="cannot be written"):
        check_output_file(tmp_path.__class__("/proc/snvrag.h5"))
    assert list(tmp_path.iterdir()) == [existing]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff", "[" * 100_000])
def test_bad_json_is_an_input_error(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"a\.json"):
        read_json(path)


def test_json_larger_than_expected_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": "x" * 100})
    with pytest.raises(InputError, match="more than the 50"):
        read_json(path, max_bytes=50)
    assert read_json(path)["a"] == "x" * 100


def test_digest_does_not_depend_on_key_order():
    assert digest_json({"a": 1, "b": 2}) == digest_json(json.loads('{"b": 2, "a": 1}'))
