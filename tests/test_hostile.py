"""Files made to run code, to reach other files, or to take the machine's memory."""

import ast
import json
import os
import pickle  # noqa: TID251 - the payload that must never be loaded
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import mosaic, write_vcf
from safetensors.numpy import save_file

from snvrag.cli.app import run as run_command
from snvrag.compiling import others_write
from snvrag.conversion import convert
from snvrag.errors import InputError, SnvragError
from snvrag.index_store import IndexStore, build_index
from snvrag.panel import Panel
from snvrag.provenance import digest_json, read_json
from snvrag.run_folder import occupied_run_folder
from snvrag.trained_run import load_run
from snvrag.verification import verify
from snvrag.weights import read_tensors, weights_format
from snvrag.windows import WindowPlan
from snvrag.workdir import read_part, write_part

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for folder in ("snvrag", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
# Payloads made to be refused, and a pipe of two commands.
ALLOWED = {
    "tests/test_hostile.py": {"pickle", "pickle.loads"},
    "tests/test_convert.py": {"np.save with allow_pickle or shell"},
    "tests/test_cli.py": {"subprocess.run with allow_pickle or shell"},
}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "yaml"}


def unsafe_calls(path):
    """Calls and imports of a source file by which data could become code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if name.split(".")[0] in UNSAFE_MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called == "pickle.loads":
            yield called
        if called in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}:
            yield called
        if called == "np.load" and given.get("allow_pickle") != "False":
            yield "np.load without allow_pickle=False"
        if called == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if given.get("allow_pickle") == "True" or given.get("shell") == "True":
            yield f"{called} with allow_pickle or shell"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_turns_data_into_code(path):
    assert set(unsafe_calls(path)) == ALLOWED.get(str(path.relative_to(ROOT)), set())


class _Marker:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture
def payload(tmp_path):
    """A pickle that makes ``marker``, shown to work where pickles are loaded."""
    marker = tmp_path / "marker"
    data = pickle.dumps(_Marker(marker))
    pickle.loads(data)  # noqa: S301 - that it works is what the test rests on
    marker.rmdir()
    yield data
    assert not marker.exists()


def write_npy(path, payload):
    """An array of objects, as numpy saves it."""
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + "\n"
    size = len(header).to_bytes(2, "little")
    path.write_bytes(b"\x93NUMPY\x01\x00" + size + header.encode() + payload)


def write_zip(path, payload):
    """What ``torch.save`` writes: a zip with a pickle in it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", payload)
        file.writestr("archive/version", "3\n")


def write_plain(path, payload):
    path.write_bytes(payload)


WRITERS = [write_npy, write_zip, write_plain]
READERS = {
    "panel": (["impute", "t.vcf", "-r", "x", "-o", "o.vcf.gz"], "x"),
    "panel to train on": (["train", "x", "-o", "r"], "x"),
    "panel to convert": (["convert", "x.vcf.gz", "-o", "o.h5"], "x.vcf.gz"),
    "panel as BCF": (["convert", "x.bcf", "-o", "o.h5"], "x.bcf"),
    "target": (["impute", "x", "-r", "p.h5", "-o", "o.vcf.gz"], "x"),
    "imputed": (["evaluate", "x", "t.vcf", "-r", "p.h5"], "x"),
    "batch": (["merge", "x.vcf.gz", "x.bcf", "-o", "o.vcf.gz"], "x.vcf.gz"),
    "map": (["impute", "t.vcf", "-r", "p.h5", "-o", "o.vcf.gz", "--map", "x"], "x"),
    "samples": (["convert", "p.vcf", "-o", "o.h5", "-S", "x"], "x"),
    "regions": (["convert", "p.vcf", "-o", "o.h5", "-R", "x"], "x"),
    "populations": (["convert", "p.vcf", "-o", "o.h5", "--populations", "x"], "x"),
    "frequencies": (["convert", "p.vcf", "-o", "o.h5", "--frequencies", "x"], "x"),
    "sites": (["evaluate", "t.vcf", "t.vcf", "-r", "p.h5", "--observed", "x"], "x"),
    "settings": (["train"], "snvrag.toml"),
    "config.json": (
        ["impute", "t.vcf", "-r", "p.h5", "-o", "o.vcf.gz", "-m", "run"],
        "run/config.json",
    ),
    "manifest": (["build-index", "p.h5", "idx"], "idx/manifest.json"),
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    alleles = mosaic(16, 70)
    write_vcf(folder / "p.vcf", alleles[:12])
    convert(folder / "p.vcf", folder / "p.h5")
    target = write_vcf(folder / "t.vcf", alleles[12:])
    target.write_text(target.read_text().replace("\tS", "\tT"))
    return folder


@pytest.mark.parametrize("write", WRITERS, ids=lambda w: w.__name__)
@pytest.mark.parametrize("name", READERS)
def test_no_reader_loads_a_pickle(case, tmp_path, monkeypatch, capsys, payload, name, write):
    monkeypatch.chdir(tmp_path)
    for path in case.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "run").mkdir()
    (tmp_path / "idx").mkdir()
    words, file = READERS[name]
    write(tmp_path / file, payload)
    if file == "x.vcf.gz":
        write(tmp_path / "x.bcf", payload)
    assert run_command(words) == 2
    error = capsys.readouterr().err
    assert f"error: {file}" in error.replace(f"error: {tmp_path}/", "error: ")
    assert "Traceback" not in error


def test_no_array_or_weights_of_pickles_are_loaded(tmp_path, payload):
    for write in WRITERS:
        write(tmp_path / "part-00000.npy", payload)
        with pytest.raises(SnvragError, match="is damaged"):
            read_part(tmp_path / "part-00000.npy", 1, 1)
        write(tmp_path / "model.safetensors", payload)
        with pytest.raises(InputError, match=r"model\.safetensors"):
            read_tensors(tmp_path / "model.safetensors")
    metadata = {"snvrag": payload.decode("latin-1")}
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(InputError, match="is marked"):
        read_tensors(tmp_path / "model.safetensors")


def test_no_pickle_in_a_panel_is_loaded(case, tmp_path, payload):
    changes = {
        "digest": lambda file: file.attrs.__setitem__("digest", np.void(payload)),
        "provenance": lambda file: file.attrs.__setitem__("provenance", np.void(payload)),
        "samples": lambda file: _replace(file, "samples", np.array([np.void(payload)] * 6)),
        "variants/ID": lambda file: _replace(file, "variants/ID", np.array([payload] * 70)),
        "variants/REF": lambda file: _replace(
            file, "variants/REF", [b"A"] * 70, dtype=h5py.special_dtype(vlen=bytes)
        ),
    }
    for name, change in changes.items():
        path = tmp_path / "x.h5"
        path.write_bytes((case / "p.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(InputError, match=name.rpartition("/")[2]), Panel.open(path) as panel:
            _ = panel.samples, panel.sites, panel.provenance


def _replace(file, name, data, **how):
    del file[name]
    file.create_dataset(name, data=data, **how)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "0/../../secret", "1\0", "x" * 5000, "-1", "٣"]
)
def test_a_manifest_leads_nowhere_else(case, tmp_path, name):
    folder = tmp_path / "idx"
    build_index(case / "p.h5", folder)
    (tmp_path / "secret").write_bytes(b"s" * 10)
    data = json.loads((folder / "manifest.json").read_text())
    data["windows"][name] = {"bytes": 10, "sha256": "0" * 64}
    data.pop("digest")
    (folder / "manifest.json").write_text(json.dumps({**data, "digest": digest_json(data)}))
    report = verify(folder)
    assert not report.ok
    with pytest.raises(SnvragError, match=r"manifest\.json"):
        build_index(case / "p.h5", folder)


def test_an_index_that_is_a_link_is_replaced_and_not_written_through(case, tmp_path):
    folder, secret = tmp_path / "idx", tmp_path / "secret"
    secret.write_bytes(b"mine")
    folder.mkdir()
    (folder / "index_0.faiss").symlink_to(secret)
    with Panel.open(case / "p.h5") as panel:
        plan = WindowPlan.from_chromosomes(panel.chromosomes())
        with IndexStore.open(folder, panel, plan) as store:
            store.get(0)
    assert secret.read_bytes() == b"mine"
    assert not (folder / "index_0.faiss").is_symlink()


def test_parts_that_are_links_are_replaced_and_not_written_through(tmp_path):
    secret, part = tmp_path / "secret", tmp_path / "part-00000.npy"
    secret.write_bytes(b"mine")
    part.symlink_to(secret)
    write_part(part, np.zeros((3, 2), np.uint16))
    assert secret.read_bytes() == b"mine"
    assert read_part(part, 3, 2).shape == (3, 2)


def test_force_follows_no_link_out_of_a_run_folder(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / "step-1").write_text("mine")
    run.mkdir()
    (run / "checkpoints").symlink_to(outside)
    (run / "config.json").symlink_to(outside / "step-1")
    with occupied_run_folder(run, resume=False, force=True):
        assert {path.name for path in run.iterdir()} == {".lock"}
    assert (outside / "step-1").read_text() == "mine"


@pytest.mark.parametrize(
    "change",
    [
        {"portable": "yes", "path": "/etc"},
        {"config": {"model": {"network": "../../x"}}},
        {"bank": [["../x", 0.1]] * 3},
        {"format_name": "/etc/passwd"},
    ],
)
def test_a_run_folder_names_no_path_and_no_class(tmp_path, change):
    found = Path(load_run(Path("shipped")).path, "config.json").read_text()
    (tmp_path / "config.json").write_text(json.dumps({**json.loads(found), **change}))
    if "path" in change:
        run = load_run(tmp_path)
        assert run.path == tmp_path
        assert not run.portable
        return
    with pytest.raises(InputError, match=r"config\.json"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "more than the"),
        (b'{"a": [' + b"[]," * 5_000_000 + b"[]]}", "more values than expected"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"a": ' + b"7" * 100_000 + b"}", "not valid JSON"),
    ],
)
def test_json_takes_no_more_memory_than_it_may(tmp_path, content, sentence):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    if not content:
        os.truncate(path, 2 << 30)
    with pytest.raises(InputError, match=sentence):
        read_json(path)


def test_a_device_or_a_pipe_is_not_read_for_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="is a device or a pipe"):
            read_json(path)


def test_a_weights_file_is_as_large_as_it_says(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float32)}
    save_file(tensors, path, metadata=weights_format(tensors))
    sound = path.read_bytes()
    assert set(read_tensors(path)) == {"a", "b"}
    for data in (
        (1 << 60).to_bytes(8, "little") + sound[8:],
        sound + b"\0",
        sound[:-1],
        sound[:-1] + b"\x3e",
        b"",
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"model\.safetensors: "):
            read_tensors(path)


def test_a_setting_file_runs_nothing(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in ("epochs = __import__('os').mkdir('marker')", 'panel = "$(mkdir marker)"'):
        (tmp_path / "snvrag.toml").write_text(f"[train]\n{line}\n")
        assert run_command(["train"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["snvrag.toml"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_cache_of_compiled_code_that_others_can_write_is_not_used(tmp_path):
    """Its index is a pickle: whoever writes it decides what runs."""
    cache = tmp_path / "cache"
    cache.mkdir()
    code = "from snvrag import packing, retrieval; import snvrag.copying"
    found = {}
    for mode in (0o777, 0o755):
        cache.chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", f"import logging; logging.basicConfig(); {code}"],
            env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
            capture_output=True,
            text=True,
            check=True,
        )
        found[mode] = done.stderr
    assert "others can write there" in found[0o777]
    assert found[0o755] == ""


def test_who_can_write_a_cache(tmp_path):
    own = tmp_path / "parent" / "cache"
    own.mkdir(parents=True)
    (own / "a.nbi").touch()
    own_file, parent = own / "a.nbi", own.parent

    def unsafe():
        others_write.cache_clear()
        return others_write(own, ROOT)

    assert not unsafe()
    for path, mode, expected in (
        (own, 0o777, True),
        (own, 0o755, False),
        (own_file, 0o666, True),
        (own_file, 0o644, False),
        (parent, 0o777, True),
        (parent, 0o1777, False),
    ):
        path.chmod(mode)
        assert unsafe() is expected, (path, oct(mode))
    others_write.cache_clear()


def test_jobs_speak_json_alone():
    """What ``--jobs`` sends between processes can carry no code."""
    for name in ("impute_jobs", "impute_worker"):
        text = (ROOT / "snvrag" / f"{name}.py").read_text()
        assert not re.search(r"multiprocessing|concurrent\.futures|socket", text)
        assert "json.dumps" in text
