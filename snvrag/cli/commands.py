"""The commands: parse, call the library, present. What they do, the Python API can do."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snvrag.cli.options import (
    SELECTION,
    WINDOWS,
    Common,
    MaxSeqLen,
    Samples,
    SamplesFile,
    Seed,
    WindowSize,
    choices,
    parse_region_options,
    parse_sample_options,
    quoted,
    with_common,
)
from snvrag.config import WindowConfig
from snvrag.errors import UsageError

if TYPE_CHECKING:
    from snvrag.windows import WindowPlan

_STORE_LOGGER = "snvrag.index_store"


def _window_config(window_size: int | None, max_seq_len: int | None) -> WindowConfig:
    given = {"window_size": window_size, "max_seq_len": max_seq_len}
    return WindowConfig(**{k: v for k, v in given.items() if v is not None})


@with_common
def convert(
    *,
    source: Annotated[
        Path, typer.Argument(metavar="PANEL.vcf.gz", help="Phased VCF, VCF.gz (bgzip) or BCF.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Panel file to write (HDF5).")],
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            "-r",
            metavar="REGION",
            help="chr, chr:pos, chr:beg-end; comma list.",
            rich_help_panel=SELECTION,
        ),
    ] = None,
    regions_file: Annotated[
        Path | None,
        typer.Option(
            "--regions-file",
            "-R",
            help="File of CHROM BEG END, 1-based, or .bed.",
            rich_help_panel=SELECTION,
        ),
    ] = None,
    samples: Samples = None,
    samples_file: SamplesFile = None,
    include_indels: Annotated[
        bool,
        typer.Option(
            "--include-indels", help="Keep biallelic indels too.", rich_help_panel=SELECTION
        ),
    ] = False,
    drop_incomplete: Annotated[
        bool,
        typer.Option(
            "--drop-incomplete",
            help="Leave out records with missing or unphased genotypes instead of stopping.",
            rich_help_panel=SELECTION,
        ),
    ] = False,
    populations: Annotated[
        Path | None,
        typer.Option(
            "--populations", help="Table: sample pop super_pop.", rich_help_panel="Frequencies"
        ),
    ] = None,
    frequencies: Annotated[
        Path | None,
        typer.Option(
            "--frequencies",
            help="NPY [4 (REF,HET,HOM,AF), populations, sites].",
            rich_help_panel="Frequencies",
        ),
    ] = None,
    af_from_info: Annotated[
        bool,
        typer.Option("--af-from-info", help="Take AF from INFO/AF.", rich_help_panel="Frequencies"),
    ] = False,
    common: Common,
) -> None:
    """Convert a phased reference panel (VCF/BCF) to HDF5, with its frequency table."""
    from snvrag.cli.output import Terminal, duration

    terminal = Terminal(common)
    with terminal.progress(unit="records") as progress:
        from snvrag.conversion import convert as library_convert

        report = library_convert(
            source,
            output,
            regions=parse_region_options(region, regions_file),
            samples=parse_sample_options(samples, samples_file),
            populations=populations,
            frequencies=frequencies,
            af_from_info=af_from_info,
            include_indels=include_indels,
            drop_incomplete=drop_incomplete,
            force=common.force,
            threads=common.threads,
            progress=progress,
        )
    if common.json:
        terminal.json(asdict(report))
        return
    facts = {
        "sites": report.n_sites,
        "samples": f"{report.n_samples:,} ({report.n_haplotypes:,} haplotypes)",
        "chromosomes": ", ".join(report.chromosomes),
        "monomorphic, kept": report.monomorphic,
        **{f"skipped: {why}": n for why, n in report.skipped.items()},
        "time": duration(report.seconds),
    }
    terminal.summary("convert", [output], facts, f"snvrag train {quoted(output)}")


@with_common
def windows(
    *,
    panel: Annotated[
        Path | None, typer.Argument(metavar="PANEL.h5", help="Panel whose sites are cut.")
    ] = None,
    total_snps: Annotated[
        int | None,
        typer.Option("--total-snps", min=1, help="Plan for this many sites, without a panel."),
    ] = None,
    window_size: WindowSize = None,
    max_seq_len: MaxSeqLen = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show every window.", rich_help_panel=WINDOWS)
    ] = False,
    common: Common,
) -> None:
    """Preview the fixed windows of a panel, or of a number of sites."""
    from snvrag.cli.output import Terminal

    plan = _plan(panel, total_snps, _window_config(window_size, max_seq_len))
    terminal = Terminal(common)
    if common.json:
        terminal.json(plan.as_json())
        return
    names = list(dict.fromkeys(w.chrom for w in plan.windows))
    if len(names) > 1:
        per_chromosome = [[str(c), sum(w.chrom == c for w in plan.windows)] for c in names]
        terminal.table(["chromosome", "windows"], per_chromosome)
    rows: list[list[str]] = []
    for index in _first_and_last(plan.num_windows, None if show_all else 5):
        if index is None:
            rows.append(["…"] * 5)
            continue
        w = plan.windows[index]
        rows.append([f"{w.index:,}", str(w.chrom), f"{w.start:,}", f"{w.end:,}", str(w.n_snps)])
    columns = ["window", "chromosome", "start", "end", "SNPs"]
    if panel is None:
        columns, rows = columns[:1] + columns[2:], [row[:1] + row[2:] for row in rows]
    terminal.table(columns, rows)
    facts = {
        "windows": plan.num_windows,
        "SNPs": plan.total_snps,
        "window size": f"{plan.config.window_size:,} (MAX_SEQ_LEN {plan.config.max_seq_len:,})",
    }
    following = None if panel is None else f"snvrag train {quoted(panel)}"
    terminal.summary("windows", [], facts, following)


def _plan(panel: Path | None, total_snps: int | None, config: WindowConfig) -> "WindowPlan":
    from snvrag.windows import WindowPlan

    if (panel is None) == (total_snps is None):
        raise UsageError(
            "windows: give either a panel or --total-snps"
            + (", not both" if panel is not None else ""),
            "snvrag windows PANEL.h5, or snvrag windows --total-snps 150000",
        )
    if total_snps is not None:
        return WindowPlan.from_total(total_snps, config)
    from snvrag.panel import Panel

    assert panel is not None  # noqa: S101 - for the type checker: exactly one is given
    with Panel.open(panel) as opened:
        return WindowPlan.from_chromosomes(opened.chromosomes(), config)


def _first_and_last(n: int, ends: int | None) -> list[int | None]:
    if ends is None or n <= 2 * ends:
        return list(range(n))
    return [*range(ends), None, *range(n - ends, n)]


@with_common
def build_index(
    *,
    panel: Annotated[Path, typer.Argument(metavar="PANEL.h5", help="Panel to index.")],
    index_dir: Annotated[
        Path | None,
        typer.Argument(metavar="INDEX_DIR", help="Index folder; default PANEL.h5.index/."),
    ] = None,
    selection: Annotated[
        str | None,
        typer.Option("--windows", metavar="LIST", help="Only these windows, such as 0-9,20."),
    ] = None,
    window_size: WindowSize = None,
    max_seq_len: MaxSeqLen = None,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="binary, or embedding: the float oracle.",
            autocompletion=choices("binary", "embedding"),
        ),
    ] = "binary",
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="RUN",
            help="Run whose embedding --kind embedding takes; without, an untrained one.",
        ),
    ] = None,
    seed: Seed = None,
    common: Common,
) -> None:
    """Build haplotype indexes ahead of time; training builds what is missing anyway."""
    from snvrag.cli.output import Terminal, duration

    config = _window_config(window_size, max_seq_len)
    embedder = None
    terminal = Terminal(common, hide=[_STORE_LOGGER])
    with terminal.progress(unit="windows") as progress:
        if kind == "embedding":
            # Before FAISS: on a CUDA machine, torch must be imported first.
            from snvrag.run_folder import load_embedder

            embedder = load_embedder(model, config, seed)
        from snvrag.index_store import build_index as library_build_index

        report = library_build_index(
            panel,
            index_dir,
            windows=selection,
            config=config,
            kind=kind,
            embedder=embedder,
            force=common.force,
            progress=progress,
        )
    if common.json:
        terminal.json(asdict(report))
        return
    facts = {
        "windows built": f"{report.built:,} of {report.num_windows:,}",
        "reused": report.reused,
        "time": duration(report.seconds),
    }
    following = f"snvrag verify {quoted(report.folder)}"
    terminal.summary("build-index", [report.folder], facts, following)


@with_common
def verify(
    *,
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX_DIR", help="Index folder.")],
    panel: Annotated[
        Path | None, typer.Option("--panel", help="Panel the indexes must belong to.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare every allele with the panel's.")
    ] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept windows that are not built yet.")
    ] = False,
    common: Common,
) -> None:
    """Check an index folder: MAX_SEQ_LEN, index counts, digests. Exit 1 if a check fails."""
    from snvrag.cli.output import Terminal, duration

    terminal = Terminal(common)
    began = time.perf_counter()
    with terminal.progress(unit="windows") as progress:
        from snvrag.verification import panel_of
        from snvrag.verification import verify as library_verify

        report = library_verify(
            index_dir, panel=panel, deep=deep, allow_partial=allow_partial, progress=progress
        )
    if common.json:
        terminal.json(report.as_json())
    else:
        rows = [["pass" if c.ok else "FAIL", c.name, c.detail] for c in report.checks]
        terminal.table(["", "check", "detail"], rows)
        facts = {
            "checks passed": f"{sum(c.ok for c in report.checks)} of {len(report.checks)}",
            "time": duration(time.perf_counter() - began),
        }
        of = panel_of(index_dir, panel)
        training = f"snvrag train {quoted(of)}" if report.ok and of else None
        terminal.summary("verify", [], facts, next(iter(report.advice), training))
    if not report.ok:
        raise typer.Exit(1)
