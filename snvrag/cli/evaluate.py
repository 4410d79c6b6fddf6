"""The command ``evaluate``."""

import shlex
import time
from itertools import combinations
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snvrag.cli.options import Common, ReferencePanel, quoted, with_common
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
    panel: ReferencePanel,
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
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="JSON of all figures, for snvrag report."),
    ] = None,
    per_site: Annotated[
        Path | None, typer.Option("--per-site", help="TSV of figures per site.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="PNG: r² by MAF, CR2 or DR2 against r², calibration."),
    ] = None,
    common: Common,
) -> None:
    """Accuracy of imputed files by minor-allele frequency, per site and per sample."""
    from snvrag.cli.output import Terminal, duration
    from snvrag.evaluation import evaluate as library_evaluate

    *imputed, truth = files
    names = _labels(imputed, label)
    outputs = {"--output": output, "--per-site": per_site, "--plot": plot}
    _check_files([*files, panel, *([observed] if observed else [])], outputs, common.force)
    terminal = Terminal(common)
    began = time.perf_counter()
    with terminal.progress(unit="records") as progress:
        found = [
            library_evaluate(path, truth, panel, observed=observed, label=name, progress=progress)
            for path, name in zip(imputed, names, strict=True)
        ]
    _write_files(found, output, per_site, plot)
    if common.json:
        whole: dict[str, Any] = found[0].as_json()
        if len(found) > 1:
            whole = {"evaluations": [e.as_json() for e in found]}
        terminal.json(whole)
        return
    for evaluation in found:
        _present(terminal, evaluation)
    facts = {
        "samples": found[0].n_samples,
        "masked sites": found[0].all.n_sites,
        "time": duration(time.perf_counter() - began),
    }
    written = [path for path in outputs.values() if path]
    if output:
        following = f"snvrag report {quoted(output)} -o report.html"
    else:
        more = ["--observed", str(observed)] if observed else []
        more += [word for name in label or [] for word in ("--label", name)]
        again = ["snvrag", "evaluate", *map(str, files), "-r", str(panel), *more]
        following = shlex.join([*again, "-o", "evaluation.json"])
    terminal.summary("evaluate", written, facts, following)


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
    names = [path.name for path in imputed]
    return label or (names if len(set(names)) == len(names) else [str(path) for path in imputed])


def _check_files(inputs: list[Path], outputs: dict[str, Path | None], force: bool) -> None:
    """Everything cheap first: inputs that are not there, outputs that could not be written."""
    from snvrag.errors import InputError
    from snvrag.plots import require_matplotlib
    from snvrag.provenance import check_output_file

    named = {option: path for option, path in outputs.items() if path is not None}
    for option, path in named.items():
        # Even --force must not replace what is being read.
        if path.exists() and any(p.exists() and path.samefile(p) for p in inputs):
            raise UsageError(f"{option} {path}: is one of the inputs", "choose another name")
        check_output_file(path, force=force)
    for one, other in combinations(named, 2):
        if named[one].resolve() == named[other].resolve():
            raise UsageError(f"{one} and {other} name one file", "choose two names")
    if "--plot" in named:
        require_matplotlib()
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path}: no such file", "check the path of the file")


def _write_files(
    found: "list[Evaluation]", output: Path | None, per_site: Path | None, plot: Path | None
) -> None:
    from snvrag.evaluation import write_tables
    from snvrag.evaluation_file import write_evaluations
    from snvrag.plots import plot_accuracy
    from snvrag.provenance import atomic_file

    if output is not None:
        write_evaluations(found, output)
    if per_site is not None:
        with atomic_file(per_site) as temporary:
            write_tables(found, temporary)
    if plot is not None:
        with atomic_file(plot) as temporary:
            plot_accuracy(found, temporary)


def _present(terminal: "Terminal", evaluation: "Evaluation") -> None:
    rows: list[list[object]] = []
    for b in [*evaluation.bins, evaluation.all]:
        name = "all, 0 too" if b is evaluation.all else f"{b.low:g}–{b.high:g}"
        figures = (b.aggregate_r2, b.mean_site_r2, b.nonref_concordance, b.nonmajor_concordance)
        rows.append([name, f"{b.n_sites:,}", *(_figure(x) for x in figures)])
    columns = ["panel MAF", "sites", "aggregate r²", "site r²", "non-ref", "non-major"]
    title = f"{evaluation.label}: {evaluation.n_samples} samples, masked sites"
    terminal.table(columns, rows, title)
    terminal.result("non-ref, non-major: concordance but for pairs both hom-ref, or both hom-major")
    _present_quality(terminal, evaluation)
    _present_calibration(terminal, evaluation)


def _present_quality(terminal: "Terminal", evaluation: "Evaluation") -> None:
    quality = evaluation.quality
    if quality is None:
        terminal.result("the file has no INFO/CR2, DR2 or R2 to compare with true r²")
        return
    from snvrag.calibration import occupied

    rows: list[list[object]] = [
        [f"{b.low:g}–{b.high:g}", b.n_sites, _figure(b.mean_quality), _figure(b.mean_site_r2)]
        for b in occupied(quality.bins)
    ]
    terminal.result("INFO/CR2, DR2 or R2 against true r²:")
    terminal.result(
        f"correlation {_figure(quality.correlation)}, mean difference "
        f"{_figure(quality.mean_difference, '+.4f')}, {quality.n_sites:,} sites"
    )
    terminal.table(["quality", "sites", "mean", "mean true r²"], rows)


def _present_calibration(terminal: "Terminal", evaluation: "Evaluation") -> None:
    terminal.result(f"expected calibration error: dosage / 2 {_figure(evaluation.calibration.ece)}")
    found = evaluation.gp_calibration
    if found is None:
        terminal.result("genotype probabilities absent (neither GP nor HDS)")
        return
    own = ", ".join(
        f"{name.replace('_', ' ')} {_figure(c.ece)}" for name, c in found.genotypes.items()
    )
    terminal.result(f"genotype probabilities ({found.source}) {_figure(found.ece)}")
    terminal.result(f"  {own}")


def _figure(value: float, form: str = ".4f") -> str:
    return "-" if isnan(value) else f"{value:{form}}"
