"""Imports point only upwards in the order of the data flow, and each file format has one owner."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "snvrag"
ORDER = (
    *(
        "errors",
        "compiling",
        "provenance",
        "arrays",
        "folder_lock",
        "config",
        "sites",
        "genetic_map",
        "dosage",
        "windows",
        "run_history",
        "masking",
    ),
    *(
        "tokens",
        "vcf",
        "unfailing_file",
        "panel_storage",
        "panel",
        "array_sites",
        "conversion",
        "packing",
        "retrieval",
        "index_kinds",
        "window_store",
        "index_store",
        "cohorts",
        "copying",
        "evidence",
        "weights",
        "trained_run",
    ),
    *(
        "model",
        "live_embedding",
        "losses",
        "distributed",
        "optimizer",
        "checkpoint",
        "calibration",
        "metrics",
        "pairing",
        "evaluation",
        "evaluation_file",
    ),
    *(
        "report_figures",
        "report_track",
        "report_run",
        "report_accuracy",
        "reporting",
        "plots",
        "batch_plan",
        "batch",
        "dataset",
        "bank",
        "run_folder",
        "observer",
        "run_events",
        "run_log",
    ),
    *(
        "trainer",
        "training",
        "target",
        "selection",
        "chunks",
        "chromosome_alleles",
        "workdir",
        "light",
        "refinement",
        "networks",
        "imputed_file",
        "impute_chunks",
        "impute_jobs",
        "impute_worker",
        "imputation",
        "merging",
        "verification",
        "example",
        "cli",
    ),
)
FOLDERS = ("cli", "copying", "vcf")
OWNERS = {
    "cyvcf2": {"vcf"},
    "h5py": {"panel", "panel_storage"},
    "hdf5plugin": {"panel"},
    "faiss": {"retrieval"},
    "numba": {"compiling", "copying"},
    "matplotlib": {"plots"},
    "safetensors": {"checkpoint", "weights"},
    "typer": {"cli"},
    "rich": {"cli"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer(path):
    return path.parent.name if path.parent.name in FOLDERS else path.stem


def imported(path):
    """Every module name imported anywhere in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def test_the_order_names_every_module():
    found = {layer(p) for p in MODULES} - {"__init__", "__main__"}
    assert found == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upwards(path):
    name = layer(path)
    if name in {"__init__", "__main__"}:
        return
    for module in imported(path):
        parts = module.split(".")
        if parts[0] == "snvrag" and len(parts) > 1 and (parts[1] != name or name in FOLDERS):
            assert ORDER.index(parts[1]) <= ORDER.index(name), f"{name} imports {parts[1]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_owner_imports_a_format_library(path):
    for module in imported(path):
        owners = OWNERS.get(module.split(".")[0])
        assert owners is None or layer(path) in owners, f"{path.name} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_ever_unpickled(path):
    text = path.read_text()
    assert not {"pickle", "dill", "joblib", "shelve", "marshal"} & set(imported(path))
    assert "torch.load" not in text
    assert not re.search(r"allow_pickle\s*=\s*True", text)
    assert not re.search(r"\b(eval|exec)\(", text.replace(".eval()", ""))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_short(path):
    assert len(path.read_text().splitlines()) <= 500
