"""Options that several commands share, each defined once."""

import functools
import inspect
import shlex
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from snvrag.errors import UsageError

if TYPE_CHECKING:
    from snvrag.sites import Region
    from snvrag.vcf import SampleSelection

SELECTION = "Selection"
WINDOWS = "Windows"
MODEL = "Model"
TRAINING = "Training"
MASKS = "Masks"
RUNTIME = "Runtime"


def choices(*values: str) -> Callable[[str], list[str]]:
    """What a shell completes an option's value to."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def quoted(path: Path | str) -> str:
    """A path as a shell takes it, in a command to be pasted."""
    return shlex.quote(str(path))


ReferencePanel = Annotated[
    Path, typer.Option("--reference", "-r", metavar="PANEL.h5", help="Reference panel.")
]
GeneticMapFile = Annotated[
    Path | None,
    typer.Option(
        "--map", help="Genetic map: PLINK, SHAPEIT, Eagle or Minimac4 form; without, 1 cM/Mb."
    ),
]
WindowSize = Annotated[
    int | None,
    typer.Option(
        "--window-size",
        help="SNPs per window; window size + 1 <= max-seq-len.",
        show_default="511",
        rich_help_panel=WINDOWS,
    ),
]
MaxSeqLen = Annotated[
    int | None,
    typer.Option(
        "--max-seq-len",
        help="Tokens per row, SOS included; never derived.",
        show_default="512",
        rich_help_panel=WINDOWS,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of all randomness.", rich_help_panel=RUNTIME),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu or cuda[:N].",
        rich_help_panel=RUNTIME,
        autocompletion=choices("auto", "cpu", "cuda"),
    ),
]
Samples = Annotated[
    str | None,
    typer.Option(
        "--samples",
        "-s",
        metavar="LIST",
        help="Comma list; ^ in front excludes.",
        rich_help_panel=SELECTION,
    ),
]
SamplesFile = Annotated[
    str | None,
    typer.Option(
        "--samples-file",
        "-S",
        metavar="FILE",
        help="One ID a line; ^ in front excludes.",
        rich_help_panel=SELECTION,
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Memory to work with, such as 4G or 800M.",
        rich_help_panel=RUNTIME,
    ),
]


@dataclass(frozen=True, slots=True)
class Common:
    """The options that every command takes."""

    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            help="Say more; -vv adds tracebacks.",
            show_default=False,
            rich_help_panel=RUNTIME,
        ),
    ] = 0
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Only warnings, errors and tables.", rich_help_panel=RUNTIME
        ),
    ] = False
    no_progress: Annotated[
        bool, typer.Option("--no-progress", help="No live progress.", rich_help_panel=RUNTIME)
    ] = False
    log_file: Annotated[
        Path | None,
        typer.Option("--log-file", help="Append the log to this file.", rich_help_panel=RUNTIME),
    ] = None
    json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=RUNTIME),
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is there.", rich_help_panel=RUNTIME)
    ] = False
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="CPU threads; default all.", rich_help_panel=RUNTIME),
    ] = None


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the :class:`Common` options; it receives them as ``common``."""
    shared = {f.name: f for f in fields(Common)}
    signature = inspect.signature(command)
    own = [p for name, p in signature.parameters.items() if name != "common"]
    _name_values([*own, *shared.values()])
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type
        )
        for name, f in shared.items()
    ]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        common = Common(**{name: values.pop(name) for name in shared})
        command(common=common, **values)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*keyword_only, *added]
    )
    wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    # functools.wraps would lead Typer's inspection back to the undecorated command.
    del wrapper.__wrapped__
    return wrapper


def _name_values(parameters: Iterable[inspect.Parameter | Field[Any]]) -> None:
    """Give options without a metavar one by their type; a flag has none."""
    for parameter in parameters:
        annotation = getattr(parameter, "annotation", getattr(parameter, "type", None))
        kinds = str(get_args(annotation)[0])
        option = get_args(annotation)[1]
        if option.metavar is None:
            names = (("bool", ""), ("Path", "FILE"), ("int", "N"), ("float", "X"), ("str", "TEXT"))
            option.metavar = next(name for kind, name in names if kind in kinds)


def parse_region_options(text: str | None, file: Path | None) -> "list[Region] | None":
    """Regions of ``--region`` or ``--regions-file``; None if neither is given.

    Raises:
        UsageError: both are given, or the text is no region.
    """
    from snvrag.sites import parse_regions, read_regions_file

    if text is not None and file is not None:
        raise UsageError("--region and --regions-file exclude one another", "give one of them")
    if file is not None:
        return read_regions_file(file)
    return parse_regions(text) if text is not None else None


def parse_sample_options(text: str | None, file: str | None) -> "SampleSelection | None":
    """Samples of ``--samples`` or ``--samples-file``; None if neither is given.

    Raises:
        UsageError: both are given, or a name is empty.
        InputError: the file is unreadable or lists no sample.
    """
    from snvrag.vcf import SampleSelection

    if text is not None and file is not None:
        raise UsageError("--samples and --samples-file exclude one another", "give one of them")
    if file is not None:
        return SampleSelection.from_file(file)
    return SampleSelection.parse(text) if text is not None else None


def parse_memory(text: str | None) -> int | None:
    """Bytes of ``4G``, ``800M``, ``512K`` or a plain number.

    Raises:
        UsageError: it is none of these.
    """
    if text is None:
        return None
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit = text.strip().upper().removesuffix("B"), 1
    if number and number[-1] in units:
        number, unit = number[:-1], units[number[-1]]
    try:
        amount = float(number)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise UsageError(f"--max-memory {text}: is not an amount of memory", "write 4G or 800M")
    return int(amount * unit)
