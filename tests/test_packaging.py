import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import snvrag

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_public_api():
    """Adding a name is a deliberate change of the API."""
    assert snvrag.__all__ == [
        "HaplotypeIndex",
        "Panel",
        "SnvragError",
        "WindowPlan",
        "build_index",
        "convert",
        "evaluate",
        "impute",
        "merge",
        "report",
        "train",
        "verify",
        "__version__",
    ]
    for name in snvrag.__all__:
        assert getattr(snvrag, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = snvrag.nonsense


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, snvrag; heavy = {'torch', 'numpy', 'faiss', 'h5py'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path", sorted((ROOT / "snvrag").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_module_imports(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] != "__main__":
        importlib.import_module(".".join(parts).removesuffix(".__init__"))


def test_the_version_has_one_source():
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", snvrag.__version__)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited.group(1) == snvrag.__version__


@pytest.mark.parametrize("name", sorted(set(snvrag.__all__) - {"__version__"}))
def test_public_docstrings_tell_arguments_result_and_errors(name):
    thing = getattr(snvrag, name)
    assert inspect.getdoc(thing)
    if not inspect.isfunction(thing):
        return
    text = inspect.getdoc(thing)
    sections = re.split(r"^(Args|Returns|Raises):$", text, flags=re.MULTILINE)
    assert sections[1::2] == ["Args", "Returns", "Raises"]
    described = set(re.findall(r"^ {4}(\w+): ", sections[2], flags=re.MULTILINE))
    assert described == set(inspect.signature(thing).parameters)


def test_every_dependency_has_a_tested_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    wanted = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        wanted += extra
    names = {re.match(r"[A-Za-z0-9_-]+", w).group(0).lower() for w in wanted}
    assert names <= pinned, names - pinned
    assert "torch==2.13.0" in lines


def test_no_extra_brings_a_second_faiss():
    for extra in PROJECT["optional-dependencies"].values():
        assert not any("faiss" in requirement for requirement in extra)
    assert sum("faiss" in requirement for requirement in PROJECT["dependencies"]) == 1
    active = [
        line
        for line in (ROOT / "requirements-gpu.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(active) == 1
    assert active[0].startswith("faiss-gpu")


def test_the_changelog_has_the_version_or_says_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{snvrag.__version__}]" in text or "## [Unreleased]" in text
