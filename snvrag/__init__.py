"""snvrag: retrieval-augmented genotype imputation.

The public names below are loaded on first use, so ``import snvrag`` costs milliseconds.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "HaplotypeIndex": "snvrag.retrieval",
    "Panel": "snvrag.panel",
    "SnvragError": "snvrag.errors",
    "WindowPlan": "snvrag.windows",
    "build_index": "snvrag.index_store",
    "convert": "snvrag.conversion",
    "evaluate": "snvrag.evaluation",
    "impute": "snvrag.imputation",
    "merge": "snvrag.merging",
    "report": "snvrag.reporting",
    "train": "snvrag.training",
    "verify": "snvrag.verification",
}

__all__ = [  # noqa: PLE0604
    *sorted(_EXPORTS),
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import the module that owns ``name`` the first time it is asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'snvrag' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
