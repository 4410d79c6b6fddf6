"""An imputed VCF.gz or BCF and its index: whole under their names, or absent."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from snvrag.errors import UsageError
from snvrag.provenance import atomic_file, check_output_file, remove, sync, sync_names, writing


class _Writer(Protocol):
    def finish(self) -> Path:
        """Complete the file and its index; returns the index's path."""
        ...

    def abort(self) -> None:
        """Close the file, as it is."""
        ...


_AnyWriter = TypeVar("_AnyWriter", bound=_Writer)


def check_imputed_output(
    output: Path, excluded: Path | None, inputs: Sequence[Path | None], force: bool
) -> None:
    """Refuse, before any work, an output that could not be written at the end.

    Args:
        output: VCF.gz or BCF; its index is checked as well.
        excluded: a further file to write.
        inputs: what must not be replaced, even by ``force``.
        force: whether other files may be.

    Raises:
        UsageError: a wrong name, or that of an input or of another output.
        OutputError: it exists, or cannot be written.
    """
    if not output.name.endswith((".vcf.gz", ".bcf")):
        raise UsageError(
            f"--output {output}: the name must end in .vcf.gz or .bcf", f"try {output}.vcf.gz"
        )
    own = (output, *index_paths(output))
    if excluded is not None and excluded.resolve() in [path.resolve() for path in own]:
        raise UsageError(
            f"--excluded {excluded}: is the output or its index", "choose another name"
        )
    for option, written in (*(("--output", path) for path in own), ("--excluded", excluded)):
        if written is None or not written.exists():
            continue
        # Even --force must not replace what is being read.
        if any(path is not None and path.exists() and written.samefile(path) for path in inputs):
            raise UsageError(f"{option} {written}: is one of the inputs", "choose another name")
    check_output_file(output, force=force)
    for index in index_paths(output):
        # Without its file an index is worth nothing: a process was killed between the two.
        check_output_file(index, force=force or not output.exists())
    if excluded is not None:
        check_output_file(excluded, force=force)


def index_paths(output: Path) -> tuple[Path, Path]:
    """The index that is written, and the one of the other kind, which htslib would prefer."""
    kinds = (".csi", ".tbi") if output.name.endswith(".bcf") else (".tbi", ".csi")
    first, second = (output.with_name(output.name + kind) for kind in kinds)
    return first, second


@contextlib.contextmanager
def new_imputed_file(
    output: Path, make_writer: Callable[[Path], _AnyWriter]
) -> Iterator[_AnyWriter]:
    """Yield the writer of a temporary name; file and index take their names on success.

    An index never lies beside a file that it is not of. A new output has its index from its first
    moment on; one that replaces another has none until its own is in place.
    """
    index, other = index_paths(output)
    new = not output.exists()
    begun: tuple[Path, ...] = ()
    try:
        with atomic_file(output) as temporary:
            begun = index_paths(temporary)
            writer = make_writer(temporary)
            try:
                yield writer
                made = writer.finish()
            finally:
                writer.abort()
            sync(made)
            for old in (index, other):
                old.unlink(missing_ok=True)
            if new:
                made.replace(index)
        if not new:
            with writing(index):
                made.replace(index)
            sync_names(output.parent)
    finally:
        for path in begun:
            remove(path)
        if new and not output.exists():
            remove(index)
