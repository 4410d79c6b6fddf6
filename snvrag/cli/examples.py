"""Command lines that work as typed, in the order of work: help pages and docs/cli.md show them.

They are given with the bundled example's files, or the user's own, in the current folder.
"""

from collections.abc import Mapping

BEGIN = "To begin: snvrag train, which without a panel takes the bundled example."
EXIT_CODES = (
    "Exit codes: 0 done, 1 a check or the work failed, 2 bad usage or input, 130 interrupted."
)

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "convert": (
        "snvrag convert panel.vcf.gz -o panel.h5",
        "snvrag convert panel.vcf.gz -o part.h5 -r 22:20000000-20300000 --threads 2",
        "snvrag convert panel.vcf.gz -o more.h5 --populations populations.panel",
    ),
    "windows": (
        "snvrag windows panel.h5",
        "snvrag windows --total-snps 150000 --window-size 1023 --max-seq-len 1024",
    ),
    "build-index": (
        "snvrag build-index panel.h5",
        "snvrag build-index panel.h5 --windows 0-2 --force",
    ),
    "train": (
        "snvrag train panel.h5 -o run --preset light",
        "snvrag train panel.h5 -o run --preset light --resume",
        "snvrag train",
    ),
    "verify": (
        "snvrag verify panel.h5.index",
        "snvrag verify panel.h5.index --deep --json",
    ),
    "impute": (
        "snvrag impute target.vcf.gz -r panel.h5 -o imputed.vcf.gz",
        "snvrag impute target.vcf.gz -r panel.h5 -m run -o refined.vcf.gz",
        "snvrag impute target.vcf.gz -r panel.h5 -m shipped -o out.bcf --jobs 2",
    ),
    "merge": (
        "snvrag impute target.vcf.gz -r panel.h5 -S first.txt --hds -o a.vcf.gz",
        "snvrag impute target.vcf.gz -r panel.h5 -S ^first.txt --hds -o b.vcf.gz",
        "snvrag merge a.vcf.gz b.vcf.gz -o all.vcf.gz",
    ),
    "evaluate": (
        "snvrag evaluate imputed.vcf.gz truth.vcf.gz -r panel.h5",
        "snvrag evaluate imputed.vcf.gz refined.vcf.gz truth.vcf.gz -r panel.h5 --json",
    ),
    "report": (
        "snvrag evaluate imputed.vcf.gz truth.vcf.gz -r panel.h5 -o evaluation.json",
        "snvrag report run evaluation.json -o report.html",
    ),
}


def epilog(command: str) -> str | None:
    """What stands at the end of a command's help page."""
    lines = EXAMPLES.get(command)
    return "\n".join(["Examples:", *lines]) if lines else None
