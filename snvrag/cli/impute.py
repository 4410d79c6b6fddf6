"""The command ``impute``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from snvrag.cli.options import (
    RUNTIME,
    SELECTION,
    Common,
    Device,
    GeneticMapFile,
    MaxMemory,
    ReferencePanel,
    Samples,
    SamplesFile,
    parse_memory,
    parse_region_options,
    parse_sample_options,
    quoted,
    with_common,
)
from snvrag.config import DEFAULT_MIN_OVERLAP

OUTPUT = "Output"
# Shares of the time; of the writing more with many samples, less with many panel haplotypes.
_SHARES = {"imputing": 0.8, "writing": 0.2}


@with_common
def impute(
    *,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="Phased VCF.gz or BCF to impute.")
    ],
    panel: ReferencePanel,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Imputed .vcf.gz or .bcf; its index is written.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="RUN",
            help="Run folder whose network refines the result; shipped is the package's own.",
        ),
    ] = None,
    index_dir: Annotated[
        Path | None,
        typer.Option(
            "--index-dir",
            "-i",
            metavar="FOLDER",
            help="Index folder for -m; default PANEL.h5.index/.",
        ),
    ] = None,
    genetic_map: GeneticMapFile = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            metavar="REGION",
            help="Write these panel sites only: chr:beg-end, comma list.",
            rich_help_panel=SELECTION,
        ),
    ] = None,
    samples: Samples = None,
    samples_file: SamplesFile = None,
    min_overlap: Annotated[
        float,
        typer.Option(
            "--min-overlap",
            min=0.0,
            max=1.0,
            help="Least share of the target's records that must be panel sites.",
            rich_help_panel=SELECTION,
        ),
    ] = DEFAULT_MIN_OVERLAP,
    allow_self: Annotated[
        bool,
        typer.Option(
            "--allow-self",
            help="Let a sample copy from the panel sample of its name.",
            rich_help_panel=SELECTION,
        ),
    ] = False,
    excluded: Annotated[
        Path | None,
        typer.Option(
            "--excluded",
            help="TSV of target records left out, with the reason.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    hds: Annotated[
        bool, typer.Option("--hds", help="Also write FORMAT/HDS.", rich_help_panel=OUTPUT)
    ] = False,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            "--work-dir",
            metavar="FOLDER",
            help="Folder for finished parts; default OUTPUT.work.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Processes; they share --threads and --max-memory.",
            rich_help_panel=RUNTIME,
        ),
    ] = 1,
    device: Device = "auto",
    max_memory: MaxMemory = None,
    common: Common,
) -> None:
    """Impute a phased target against a panel; works without any training."""
    from snvrag.cli.output import Terminal, duration

    terminal = Terminal(common)
    with terminal.progress(_SHARES, "sites") as progress:
        # After the log is set up: compiling the kernels may have something to say.
        from snvrag.imputation import impute as library_impute

        report = library_impute(
            target,
            panel,
            output,
            model=model,
            index_dir=index_dir,
            genetic_map=genetic_map,
            regions=parse_region_options(region, None),
            samples=parse_sample_options(samples, samples_file),
            excluded=excluded,
            min_overlap=min_overlap,
            work_dir=work_dir,
            hds=hds,
            allow_self=allow_self,
            threads=common.threads,
            jobs=jobs,
            device=device,
            max_memory=parse_memory(max_memory),
            force=common.force,
            progress=progress,
        )
    if common.json:
        terminal.json(asdict(report))
        return
    facts = {
        "samples": report.n_samples,
        "sites": f"{report.n_sites:,} ({report.n_typed:,} typed)",
        "target records matched": f"{report.matched:,} ({report.flipped:,} with REF/ALT swapped)",
        **{f"left out: {why}": n for why, n in report.excluded.items()},
        "chunks": f"{report.chunks} ({report.reused} from an earlier run)",
        "memory": f"about {report.estimated_memory / 2**20:,.0f} MB",
        "time": duration(report.seconds),
    }
    written = [output, report.index, *([excluded] if excluded else [])]
    following = f"bcftools view -H {quoted(output)} | head" if report.n_sites else None
    terminal.summary("impute", written, facts, following)
