"""The bundled example: a small simulated panel and targets, shipped with the package.

``examples/simulate_example.py`` generates the files, byte for byte.
"""

from dataclasses import dataclass
from pathlib import Path

from snvrag.conversion import convert
from snvrag.errors import InputError, OutputError
from snvrag.index_store import MANIFEST, default_index_dir
from snvrag.panel import Panel
from snvrag.provenance import prepare_output_folder, sha256_file

EXAMPLE_FOLDER = "snvrag-example"
DATA = Path(__file__).parent / "example_data"


@dataclass(frozen=True, slots=True)
class ExampleFiles:
    """Paths of the bundled files."""

    panel_vcf: Path
    """200 phased samples, all sites."""
    target_vcf: Path
    """20 other samples at array-like sites."""
    truth_vcf: Path
    """The same 20 samples at all sites."""
    genetic_map: Path
    """PLINK form: chromosome, ID, cM, bp."""
    populations: Path
    """``sample pop super_pop``."""


def example_files() -> ExampleFiles:
    """The bundled files inside the installed package."""
    return ExampleFiles(
        panel_vcf=DATA / "panel.vcf.gz",
        target_vcf=DATA / "target.vcf.gz",
        truth_vcf=DATA / "truth.vcf.gz",
        genetic_map=DATA / "genetic_map.plink.map",
        populations=DATA / "populations.panel",
    )


def prepare_example(folder: Path | None = None) -> Path:
    """Lay out the example panel as ``panel.h5`` in a folder and return its path.

    A panel that is there already is kept if it is sound and was made from the bundled bytes; when
    it is not, the indexes beside it go with it.

    Args:
        folder: where to; ``snvrag-example`` in the current folder if None.

    Raises:
        OutputError: the folder cannot be written to.
    """
    folder = Path(EXAMPLE_FOLDER) if folder is None else folder
    try:
        prepare_output_folder(folder)
    except OutputError as error:
        raise OutputError(
            error.message, "run it in a folder you can write to, or name a panel"
        ) from error
    files = example_files()
    path = folder / "panel.h5"
    if not _is_current(path, sha256_file(files.panel_vcf)):
        _remove_indexes(path)
        convert(files.panel_vcf, path, populations=files.populations, force=True)
    return path


def _remove_indexes(panel: Path) -> None:
    """Indexes of an older release's example would be refused beside the new panel.

    They go before the panel is replaced and their manifest first, so that an interruption leaves
    neither a current panel with stale indexes nor a manifest that lists files that are gone.
    """
    folder = default_index_dir(panel)
    for stale in (folder / MANIFEST, *folder.glob("index_*.faiss")):
        stale.unlink(missing_ok=True)


def _is_current(path: Path, digest: str) -> bool:
    try:
        with Panel.open(path) as panel:
            return digest in panel.provenance["inputs"].values()
    except (InputError, KeyError, AttributeError):
        return False
