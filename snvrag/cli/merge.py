"""The command ``merge``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from snvrag.cli.options import Common, quoted, with_common


@with_common
def merge(
    *,
    batches: Annotated[
        list[Path],
        typer.Argument(metavar="BATCH...", help="Files that impute --hds wrote, in order."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Merged file, .vcf.gz or .bcf as the batches."),
    ],
    hds: Annotated[bool, typer.Option("--hds", help="Also write FORMAT/HDS.")] = False,
    common: Common,
) -> None:
    """Join imputed batches of samples; AF, DR2 and CR2 are of all samples together."""
    from snvrag.cli.output import Terminal, duration

    terminal = Terminal(common)
    with terminal.progress(unit="sites") as progress:
        from snvrag.merging import merge as library_merge

        report = library_merge(batches, output, hds=hds, force=common.force, progress=progress)
    if common.json:
        terminal.json(asdict(report))
        return
    facts = {
        "batches": report.n_batches,
        "samples": f"{report.n_samples:,}",
        "sites": f"{report.n_sites:,}",
        "time": duration(report.seconds),
    }
    following = f"bcftools view -H {quoted(output)} | head" if report.n_sites else None
    terminal.summary("merge", [output, report.index], facts, following)
