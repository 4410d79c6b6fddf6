"""The copying model of Li & Stephens: probabilities, and evidence for a network."""

from snvrag.copying.kernels import N_FEATURES, N_LOGITS, REACH_CM
from snvrag.copying.reference import (
    DEFAULT_BANK,
    EVIDENCE_BANK,
    Reference,
    States,
    copying_evidence,
    copying_probability,
    genetic_coordinate,
    select_states,
    set_threads,
)

__all__ = [
    "DEFAULT_BANK",
    "EVIDENCE_BANK",
    "N_FEATURES",
    "N_LOGITS",
    "REACH_CM",
    "Reference",
    "States",
    "copying_evidence",
    "copying_probability",
    "genetic_coordinate",
    "select_states",
    "set_threads",
]
