"""One part of an imputation at a time: a chunk of sites for some target haplotypes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snvrag.chromosome_alleles import ChromosomeAlleles
from snvrag.chunks import Part, batch_size
from snvrag.copying import Reference, copying_evidence, copying_probability
from snvrag.errors import WorkError
from snvrag.networks import ChosenNetwork, Refines
from snvrag.panel import Panel
from snvrag.target import TargetCalls
from snvrag.vcf.columns import round_probabilities
from snvrag.workdir import write_part


class PartMaker:
    """Computes parts; keeps what chunks of one chromosome share."""

    def __init__(
        self,
        panel: Panel,
        target: TargetCalls,
        cm: NDArray[np.float64],
        exclude: NDArray[np.int64],
        judges: NDArray[np.bool_],
        network: ChosenNetwork,
    ) -> None:
        """Take what all parts share.

        Args:
            panel: the reference panel.
            target: the calls.
            cm: float64 [sites], genetic positions of the panel's sites.
            exclude: int64 [H, 2], panel haplotypes that a target haplotype must not see; -1 is
                none.
            judges: bool [n], panel haplotypes of people that are not in the target too; see
                :meth:`snvrag.copying.Reference.of_core`.
            network: what refines the copying model's answer, if anything.
        """
        self._panel, self._target, self._cm = panel, target, cm
        self._exclude, self._network = exclude, network
        self._judges = judges
        self._refiner: Refines | None = None
        self._alleles: ChromosomeAlleles | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that :meth:`of_arrays` makes another one of, by name."""
        return {
            "observed": self._target.panel_rows,
            "calls": self._target.alleles,
            "cm": self._cm,
            "exclude": self._exclude,
            "judges": self._judges,
        }

    @classmethod
    def of_arrays(cls, folder: Path, panel: Panel, network: ChosenNetwork) -> "PartMaker":
        """In another process, from the files ``<name>.npy`` of :meth:`arrays` in ``folder``."""

        def load(name: str) -> Any:
            return np.load(folder / f"{name}.npy", allow_pickle=False)

        # Mapped, so that all processes have the one largest array in memory once; not as read-only,
        # for which the kernels would be compiled a second time.
        calls = np.load(folder / "calls.npy", mmap_mode="c", allow_pickle=False)
        target = TargetCalls(load("observed"), calls)
        return cls(panel, target, load("cm"), load("exclude"), load("judges"), network)

    def make(self, path: Path, part: Part, tell: Callable[[float], None]) -> None:
        """Compute a part and write it to ``path``; ``tell`` is told the share that is done.

        Raises:
            WorkError: a probability is not a number.
            OutputError: the part cannot be written.
        """
        tell(0.0)
        chunk = part.chunk
        if self._network.refiner and self._refiner is None:
            self._refiner = self._network.refiner(self._target, self._exclude)
        if self._alleles is None or self._alleles.chrom != chunk.chrom:
            self._alleles = ChromosomeAlleles(
                self._panel, self._target.panel_rows, chunk.chrom, self._judges
            )
        reference = self._alleles.reference(chunk)
        _, calls = self._target.observed(chunk.first, chunk.last)
        result = np.empty((chunk.end - chunk.start, part.last - part.first), dtype=np.uint16)
        batch = batch_size(chunk.end - chunk.start, refined=self._refiner is not None)
        for first in range(part.first, part.last, batch):
            tell((first - part.first) / (part.last - part.first))
            some = slice(first, min(first + batch, part.last))
            found = self._probability(part, reference, calls[some], some, self._refiner)
            rounded = result[:, first - part.first : some.stop - part.first]
            if not round_probabilities(found, found.view(np.uint32), rounded):
                raise WorkError(
                    f"{chunk.chrom}: a probability between panel sites {chunk.start:,} and "
                    f"{chunk.end:,} is not a number",
                    "impute without -m, or train again",
                )
        # A part outlives the run, and another one trusts it.
        self._panel.check_unchanged()
        write_part(path, result)

    def _probability(
        self,
        part: Part,
        reference: Reference,
        calls: NDArray[np.int8],
        some: slice,
        refiner: Refines | None,
    ) -> NDArray[np.float32]:
        """P(ALT) float32 [T, L] of the target haplotypes ``some``."""
        rows = slice(part.chunk.first, part.chunk.last)
        asked = (reference, calls, self._cm[rows], self._panel.positions[rows])
        exclude, bank = self._exclude[some], self._network.bank
        if refiner is None:
            return copying_probability(*asked, exclude=exclude, bank=bank)
        features = copying_evidence(*asked, exclude=exclude, bank=bank)
        logits = refiner.logits(part.chunk, some, reference.minor_is_alt, features)
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)
