"""The copying model of Li & Stephens: probabilities, and evidence for a network."""

from snvrag.copying.kernels import N_FEATURES, N_LOGITS, REACH_CM, set_threads
from snvrag.copying.reference import (
    ALL_STATES,
    DEFAULT_BANK,
    EVIDENCE_BANK,
    STATE_WINDOWS,
    STATES_PER_WINDOW,
    Reference,
    States,
    copying_evidence,
    copying_probability,
    genetic_coordinate,
    longest_runs,
    select_states,
)

__all__ = [
    "ALL_STATES",
    "DEFAULT_BANK",
    "EVIDENCE_BANK",
    "N_FEATURES",
    "N_LOGITS",
    "REACH_CM",
    "STATES_PER_WINDOW",
    "STATE_WINDOWS",
    "Reference",
    "States",
    "copying_evidence",
    "copying_probability",
    "genetic_coordinate",
    "longest_runs",
    "select_states",
    "set_threads",
]
