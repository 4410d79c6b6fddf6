"""The copying model of Li & Stephens: probabilities, and evidence for a network."""

from snvrag.copying.kernels import N_FEATURES, N_LOGITS, REACH_CM
from snvrag.copying.reference import (
    DEFAULT_BANK,
    EVIDENCE_BANK,
    Reference,
    copying_evidence,
    copying_probability,
    genetic_coordinate,
    set_threads,
)

__all__ = [
    "DEFAULT_BANK",
    "EVIDENCE_BANK",
    "N_FEATURES",
    "N_LOGITS",
    "REACH_CM",
    "Reference",
    "copying_evidence",
    "copying_probability",
    "genetic_coordinate",
    "set_threads",
]
