"""The command ``merge``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from snvrag.cli.options import Common, with_common


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
    from snvrag.cli.output import Terminal

    terminal = Terminal(common)
    from snvrag.merging import merge as library_merge

    with terminal.progress(unit="sites") as progress:
        report = library_merge(batches, output, hds=hds, force=common.force, progress=progress)
    if common.json:
        terminal.json(asdict(report))
        return
    facts = {
        "batches": report.n_batches,
        "samples": f"{report.n_samples:,}",
        "sites": f"{report.n_sites:,}",
        "time": f"{report.seconds:.1f} s",
    }
    following = f"bcftools view -H {output} | head" if report.n_sites else None
    terminal.summary(f"wrote {output} and {report.index.name}", facts, following)
