"""Whose haplotypes are predicted in training and validation, and who may be copied from.

Training people are panel samples, or the samples of another file matched to the panel site by
site; validation people likewise. Nobody is predicted from their own haplotypes: who is in the
panel under the same ID is left out of it for themselves, validation people for everybody.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snvrag.config import TrainConfig
from snvrag.errors import InputError, UsageError
from snvrag.index_store import IndexStore
from snvrag.panel import Panel
from snvrag.retrieval import BinaryIndex
from snvrag.sites import SiteMatch, match_sites
from snvrag.window_store import DEFAULT_BUDGET, WindowStore
from snvrag.windows import WindowPlan

MIN_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Split:
    """Sample numbers for training and, disjoint from them, for validation; both sorted."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def split_samples(n_samples: int, fraction: float, seed: int) -> Split:
    """Hold out a seeded random ``fraction`` of the samples, at least one, leaving at least two.

    Raises:
        InputError: there are fewer than three samples.
    """
    if n_samples < MIN_SAMPLES:
        raise InputError(
            f"the panel has {n_samples} samples; training needs at least {MIN_SAMPLES} (one to "
            "validate on, one to predict, one to copy from)",
            "give a larger reference panel",
        )
    held_out = min(max(1, round(n_samples * fraction)), n_samples - 2)
    order = np.random.default_rng([seed, 0]).permutation(n_samples)
    return Split(np.sort(order[held_out:]), np.sort(order[:held_out]))


class MatchedAlleles(WindowStore):
    """Haplotypes of another file at the rows of a panel; REF stands where a site is unmatched.

    Reads a window when it is asked for, so that memory does not grow with the file.
    """

    def __init__(
        self, file: Panel, match: SiteMatch, plan: WindowPlan, budget_bytes: int = DEFAULT_BUDGET
    ) -> None:
        super().__init__(plan, file.n_haplotypes, budget_bytes)
        self._file, self._match = file, match

    def _fetch(self, window: int) -> BinaryIndex:
        bounds, match = self.plan.windows[window], self._match
        some = slice(*np.searchsorted(match.panel_rows, [bounds.start, bounds.end]))
        alleles = np.zeros((bounds.n_snps, self.n_haplotypes), dtype=np.uint8)
        rows = match.target_rows[some]
        if len(rows):
            first, last = int(rows.min()), int(rows.max()) + 1
            own = self._file.site_alleles(first, last)[rows - first]
            alleles[match.panel_rows[some] - bounds.start] = own ^ match.flipped[some, None]
        return BinaryIndex.of_sites(alleles, self.plan.config.window_size)


@dataclass(frozen=True, slots=True)
class Cohort:
    """People whose haplotypes are predicted."""

    people: Panel
    """The file that they are in: the panel or another one."""
    haplotypes: WindowStore
    """All of that file's haplotypes at the panel's rows."""
    samples: NDArray[np.int64]
    """Which of the file's samples."""
    matched: NDArray[np.bool_]
    """bool [panel sites]: the file has the site. No other site is observed or scored."""
    windows: NDArray[np.int64]
    """Windows with a matched site."""
    in_panel: NDArray[np.int64]
    """int64 [the file's samples]: the panel's sample of the same ID; -1 is none."""

    @classmethod
    def of_panel(cls, panel: Panel, store: IndexStore, samples: NDArray[np.int64]) -> "Cohort":
        """Samples of the panel itself."""
        return cls(
            people=panel,
            haplotypes=store,
            samples=samples,
            matched=np.ones(panel.n_sites, dtype=bool),
            windows=np.arange(store.plan.num_windows),
            in_panel=np.arange(panel.n_samples),
        )

    @classmethod
    def of_file(cls, file: Panel, panel: Panel, plan: WindowPlan) -> "Cohort":
        """All samples of another file, matched to the panel by site and by sample ID.

        Raises:
            InputError: the two have no site in common.
        """
        match = match_sites(panel.sites, file.sites)
        if not len(match.panel_rows):
            reasons = Counter(reason for _, reason in match.excluded).most_common(2)
            raise InputError(
                f"{file.path}: none of its {file.n_sites:,} sites is in {panel.path} "
                f"({'; '.join(f'{n:,} {reason}' for reason, n in reasons)}; contigs of the file: "
                f"{_contigs(file)}; of the panel: {_contigs(panel)})",
                "check that both are of one genome build and chromosome",
            )
        matched = np.zeros(panel.n_sites, dtype=bool)
        matched[match.panel_rows] = True
        number = {name: i for i, name in enumerate(panel.samples)}
        return cls(
            people=file,
            haplotypes=MatchedAlleles(file, match, plan),
            samples=np.arange(file.n_samples),
            matched=matched,
            windows=np.unique(plan.window_of(match.panel_rows)),
            in_panel=np.array([number.get(name, -1) for name in file.samples], dtype=np.int64),
        )

    def without(self, names: set[str]) -> "Cohort":
        """The cohort without the samples of these IDs."""
        kept = [i for i in self.samples.tolist() if self.people.samples[i] not in names]
        return Cohort(
            self.people,
            self.haplotypes,
            np.array(kept, dtype=np.int64),
            self.matched,
            self.windows,
            self.in_panel,
        )

    def names(self) -> set[str]:
        """IDs of the samples."""
        return {self.people.samples[i] for i in self.samples.tolist()}

    def same_person(self, sample: int, panel: Panel) -> NDArray[np.int64]:
        """Panel haplotypes of a sample of this cohort, by ID: int64 [0, 1 or 2]."""
        number = int(self.in_panel[sample])
        return panel.own_haplotypes(number) if number >= 0 else np.empty(0, dtype=np.int64)

    def describe(self, plan: WindowPlan) -> str:
        """Samples, sites, windows and overlap with the panel, in words."""
        overlap = int((self.in_panel[self.samples] >= 0).sum())
        return (
            f"{len(self.samples):,} samples ({overlap:,} of them in the panel), "
            f"{int(self.matched.sum()):,} of {len(self.matched):,} panel sites, "
            f"{plan.num_windows - len(self.windows):,} windows without a site skipped"
        )


def _contigs(file: Panel) -> str:
    return ", ".join(
        f"{name}:{file.positions[first]:,}-{file.positions[last - 1]:,}"
        for name, first, last in file.sites.chromosomes()
    )


@dataclass(frozen=True, slots=True)
class Cohorts:
    """The people of a run."""

    training: Cohort
    validation: Cohort
    held_out: NDArray[np.int64]
    """Panel samples that nobody may copy from and that count in no frequency, sorted."""
    dropped: int = 0
    """Training samples left out because they are validated on."""

    @classmethod
    def choose(
        cls,
        panel: Panel,
        store: IndexStore,
        config: TrainConfig,
        targets: Panel | None,
        validation: Panel | None,
    ) -> "Cohorts":
        """Training people from ``targets`` and validation people from ``validation``.

        Where one is None its people are panel samples: a seeded part of them validates, all
        others train. Training people of a validation person's ID are left out.

        Raises:
            UsageError: a share of the panel is to be validated on beside ``validation``.
            InputError: a file has no site of the panel, or nobody is left to train on or to copy
                from.
        """
        plan = store.plan
        if (
            validation is not None
            and config.validation_fraction != TrainConfig().validation_fraction
        ):
            raise UsageError(
                f"--validation-fraction {config.validation_fraction}: {validation.path} names who "
                "is validated on",
                "leave it out, or leave out --validation",
            )
        if validation is None:
            own = split_samples(panel.n_samples, config.validation_fraction, config.seed)
            judges = Cohort.of_panel(panel, store, own.validation)
        else:
            judges = Cohort.of_file(validation, panel, plan)
        if targets is None:
            everyone = Cohort.of_panel(panel, store, np.arange(panel.n_samples))
        else:
            everyone = Cohort.of_file(targets, panel, plan)
        training = everyone.without(judges.names())
        held_out = judges.in_panel[judges.samples]
        held_out = np.unique(held_out[held_out >= 0])
        if not len(training.samples):
            raise InputError(
                f"{everyone.people.path}: all of its {len(everyone.samples):,} samples are "
                "validated on, none is left to train on",
                "give other samples to --validation or --targets",
            )
        # Two people at least must stay: one to predict, if of the panel, and one to copy from.
        if panel.n_samples - len(held_out) < MIN_SAMPLES - 1:
            raise InputError(
                f"{panel.path}: {len(held_out):,} of its {panel.n_samples:,} samples are validated "
                "on, too few are left to copy from",
                "give a larger reference panel, or other samples to --validation",
            )
        return cls(training, judges, held_out, len(everyone.samples) - len(training.samples))

    def identity(self, panel: Panel) -> dict[str, str]:
        """Digests of the files that are not the panel: with other ones no run may go on."""
        return {
            f"{role}_digest": "" if cohort.people is panel else cohort.people.digest
            for role, cohort in (("targets", self.training), ("validation", self.validation))
        }

    def inputs(self) -> dict[str, str]:
        """Digest of each file."""
        return {str(c.people.path): c.people.digest for c in (self.training, self.validation)}

    def describe(self, panel: Panel) -> dict[str, str]:
        """Who is trained and validated on, where that is not the panel, in words."""
        plan = self.training.haplotypes.plan
        found = {}
        if self.training.people is not panel:
            found["targets"] = self.training.describe(plan)
            if self.dropped:
                found["targets"] += f", {self.dropped:,} samples left out that are validated on"
        if self.validation.people is not panel:
            found["validation"] = self.validation.describe(plan)
            if len(self.held_out):
                found["validation"] += "; these are out of the panel for everybody"
        return found


@contextmanager
def opened(path: Path | None) -> Iterator[Panel | None]:
    """Open a panel file, or nothing."""
    if path is None:
        yield None
        return
    with Panel.open(path) as panel:
        yield panel
