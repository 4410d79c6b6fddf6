"""What the panel says about each masked site, as a network reads it.

:func:`snvrag.copying.copying_evidence` computes the columns for the panel's minor allele; here they
get names and scales, and become the *prior* that a network only ever corrects: the copying model's
own answer. Only alleles at observed sites are read, so a masked allele cannot reach its own
prediction.
"""

import numpy as np
from numpy.typing import NDArray

from snvrag.copying import N_FEATURES, N_LOGITS, SURE_LOGIT

FEATURE_LIMIT = 6.0
_OF = ("the carriers", "the others")
# Name, and the shift and scale that bring each column to order one, as a network's inputs should
# be. Constants rather than the run's own moments, so that one network reads every panel alike.
FEATURES: tuple[tuple[str, float, float], ...] = (
    *((f"logit of the posterior, setting {i}", -6.5, 4.5) for i in range(N_LOGITS)),
    ("log2 of 1 + minor-allele count without the query's sample", 3.5, 2.5),
    ("minor-allele frequency without the query's sample", 0.1, 0.125),
    ("log cM to the nearest observed site to the left", -7.2, 1.6),
    ("log cM to the nearest observed site to the right", -7.2, 1.6),
    ("log Σ w², w the posterior weights of the haplotypes", -1.6, 1.3),
    ("log largest w", -1.1, 1.0),
    (f"log largest w among {_OF[0]}", -10.8, 4.0),
    (f"log largest w among {_OF[1]}", -2.2, 3.0),
    (f"log cM of the longest run among {_OF[0]}", -4.0, 2.5),
    (f"log cM of the longest run with a mismatch allowed per side among {_OF[0]}", -3.0, 2.2),
    (f"log cM of the longest shorter side among {_OF[0]}", -5.7, 2.2),
    (f"log cM of the second longest run among {_OF[0]}", -5.7, 3.2),
    (f"log cM of the longest run among {_OF[1]}", -0.6, 1.4),
    (f"log cM of the longest run with a mismatch allowed per side among {_OF[1]}", -0.3, 1.1),
    (f"log cM of the longest shorter side among {_OF[1]}", -2.3, 1.7),
    (f"log cM of the second longest run among {_OF[1]}", -1.0, 1.3),
    ("log of 1 + others whose run is at least the longest of the carriers", 4.7, 1.8),
    ("longest run, carriers against others", -3.3, 3.0),
    ("longest run with a mismatch allowed, carriers against others", -2.7, 2.6),
    ("longest shorter side, carriers against others", -3.4, 3.0),
    ("log of 1 + carriers whose run is at least the longest of the others", 0.3, 1.1),
    ("log ratio of carriers and others whose run is near the longest", -1.4, 1.25),
)
COUNT_FEATURE = N_LOGITS
"""Column of the minor-allele count: 0 where no other sample carries the minor allele."""
NOBODY = -16.0
"""Logit of an allele that no other sample carries."""


SHIFT = np.array([shift for _, shift, _ in FEATURES], dtype=np.float32)
SCALE = np.array([scale for _, _, scale in FEATURES], dtype=np.float32)


def is_sure(features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the copying model is left alone: bool [...] of evidence [..., N_FEATURES]."""
    logits = features[..., :N_LOGITS]
    return np.asarray((logits.max(-1) < -SURE_LOGIT) | (logits.min(-1) > SURE_LOGIT))


assert len(FEATURES) == N_FEATURES  # noqa: S101 - the two lists stand in two modules
