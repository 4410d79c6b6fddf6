"""The command ``evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snvrag.cli.options import Common, with_common
from snvrag.errors import UsageError

if TYPE_CHECKING:
    from snvrag.cli.output import Terminal
    from snvrag.evaluation import Evaluation


@with_common
def evaluate(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="IMPUTED… TRUTH", help="Imputed files, and last the truth."),
    ],
    panel: Annotated[
        Path, typer.Option("--reference", "-r", metavar="PANEL.h5", help="Reference panel.")
    ],
    observed: Annotated[
        Path | None,
        typer.Option(
            "--observed",
            help="Sites that were measured: VCF, or CHROM POS lines. "
            "Without it INFO/IMP or IMPUTED tells.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="Name of each imputed file, in order; repeat."),
    ] = None,
    per_site: Annotated[
        Path | None, typer.Option("--per-site", help="TSV of figures per site.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="PNG of r² against MAF, and calibration.")
    ] = None,
    common: Common,
) -> None:
    """Accuracy of imputed files by minor-allele frequency, per site and per sample."""
    from snvrag.cli.output import Terminal
    from snvrag.evaluation import evaluate as library_evaluate
    from snvrag.provenance import check_output_file

    *imputed, truth = files
    names = _labels(imputed, label)
    for path in (per_site, plot):
        if path is not None:
            check_output_file(path, force=common.force)
    terminal = Terminal(common)
    found = [
        library_evaluate(path, truth, panel, observed=observed, label=name)
        for path, name in zip(imputed, names, strict=True)
    ]
    _write_files(found, per_site, plot)
    if common.json:
        whole: dict[str, Any] = found[0].as_json()
        if len(found) > 1:
            whole = {"evaluations": [e.as_json() for e in found]}
        terminal.json(whole)
        return
    for evaluation in found:
        _present(terminal, evaluation)


def _labels(imputed: list[Path], label: list[str] | None) -> list[str]:
    if not imputed:
        raise UsageError(
            "evaluate: needs at least one imputed file and the truth",
            "snvrag evaluate IMPUTED.vcf.gz TRUTH.vcf.gz -r PANEL.h5",
        )
    if label and len(label) != len(imputed):
        raise UsageError(
            f"--label: {len(label)} labels for {len(imputed)} imputed files",
            "give one --label per imputed file, or none",
        )
    return label or [path.name for path in imputed]


def _write_files(found: "list[Evaluation]", per_site: Path | None, plot: Path | None) -> None:
    from snvrag.evaluation import write_tables
    from snvrag.plots import plot_accuracy
    from snvrag.provenance import atomic_file

    if per_site is not None:
        with atomic_file(per_site) as temporary:
            write_tables(found, temporary)
    if plot is not None:
        with atomic_file(plot) as temporary:
            plot_accuracy(found, temporary)


def _present(terminal: "Terminal", evaluation: "Evaluation") -> None:
    rows: list[list[object]] = []
    for b in [*evaluation.bins, evaluation.all]:
        name = "all" if b is evaluation.all else f"{b.low:g}–{b.high:g}"
        figures = (b.aggregate_r2, b.mean_site_r2, b.nonref_concordance, b.nonmajor_concordance)
        rows.append([name, f"{b.n_sites:,}", *(f"{x:.4f}" for x in figures)])
    columns = ["panel MAF", "sites", "aggregate r²", "site r²", "non-ref conc.", "non-major conc."]
    title = f"{evaluation.label}: {evaluation.n_samples} samples, masked sites"
    terminal.table(columns, rows, title)
