"""The copying model of Li & Stephens: probabilities, and evidence for a network."""

from snvrag.copying.describing import N_FEATURES, N_LOGITS, REACH_CM, SURE_LOGIT
from snvrag.copying.kernels import PICK_ABOVE
from snvrag.copying.perceptron import refine_rows
from snvrag.copying.reference import (
    DEFAULT_BANK,
    EVIDENCE_BANK,
    Bank,
    Reference,
    copying_evidence,
    copying_probability,
    genetic_coordinate,
    mismatch_probability,
    set_threads,
)
from snvrag.copying.relatedness import CELL_CM

__all__ = [
    "CELL_CM",
    "DEFAULT_BANK",
    "EVIDENCE_BANK",
    "N_FEATURES",
    "N_LOGITS",
    "PICK_ABOVE",
    "REACH_CM",
    "SURE_LOGIT",
    "Bank",
    "Reference",
    "copying_evidence",
    "copying_probability",
    "genetic_coordinate",
    "mismatch_probability",
    "refine_rows",
    "set_threads",
]
