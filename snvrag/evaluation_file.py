"""``evaluation.json``: what ``evaluate`` found, kept for ``report`` and for others to read.

The file may come from anywhere, so every field is checked for its type when it is read.
"""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from snvrag.calibration import CalibrationBin, GenotypeCalibration, QualityAccuracy
from snvrag.dosage import BIN_EDGES
from snvrag.errors import InputError
from snvrag.evaluation import BinAccuracy, Evaluation, RegionAccuracy, SampleAccuracy
from snvrag.provenance import provenance, read_json, write_json

FORMAT, VERSION = "snvrag-evaluation", 1
_REMEDY = "give a file of: snvrag evaluate IMPUTED… TRUTH -r PANEL.h5 -o evaluation.json"
# Beyond these a damaged file speaks, not an evaluation.
_MOST_ENTRIES = 1_000
_MOST: Mapping[Any, int] = {SampleAccuracy: 1_000_000, RegionAccuracy: 100_000}
_LARGEST = 1e15


@dataclass(frozen=True, slots=True)
class SavedEvaluation:
    """An :class:`~snvrag.evaluation.Evaluation` without its sites; undefined figures are NaN."""

    label: str
    n_samples: int
    bins: list[BinAccuracy]
    all: BinAccuracy
    samples: list[SampleAccuracy]
    calibration: list[CalibrationBin]
    ece: float
    gp_calibration: GenotypeCalibration | None
    quality: QualityAccuracy | None
    qualities: dict[str, QualityAccuracy]
    regions: list[RegionAccuracy]


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """The content of an evaluation file."""

    evaluations: list[SavedEvaluation]
    snvrag_version: str
    command: list[str]
    created: str
    """UTC, ISO 8601."""


def write_evaluations(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Write evaluations as JSON, atomically; undefined figures become null.

    Raises:
        OutputError: the file cannot be written.
    """
    data = {
        "format_name": FORMAT,
        "format_version": VERSION,
        "evaluations": [_defined(evaluation.as_json()) for evaluation in evaluations],
        "provenance": provenance(),
    }
    write_json(path, data)


def _defined(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _defined(own) for key, own in value.items()}
    return [_defined(own) for own in value] if isinstance(value, list) else value


def read_evaluations(path: Path) -> EvaluationFile:
    """Read and check an evaluation file.

    Raises:
        InputError: it is absent, too large, no JSON, of another format, version or frequency bins,
            or a field is missing or of another type; the message names the field.
    """
    try:
        data = read_json(path)
    except InputError as error:
        raise InputError(error.message, error.hint or _REMEDY) from error
    found = (data.get("format_name"), data.get("format_version"))
    if found != (FORMAT, VERSION):
        raise InputError(
            f"{path}: format {found[0]!r} version {found[1]!r}, not {FORMAT!r} version {VERSION}",
            _REMEDY,
        )
    origin = data.get("provenance")
    content = {**(origin if isinstance(origin, dict) else {}), **data}
    try:
        result: EvaluationFile = _checked(EvaluationFile, content, "")
    except _UnfitError as error:
        raise InputError(f"{path}: {error}", _REMEDY) from error
    for number, evaluation in enumerate(result.evaluations):
        if [(b.low, b.high) for b in evaluation.bins] != list(pairwise(BIN_EDGES)):
            raise InputError(
                f"{path}: evaluations[{number}].bins are not of the frequencies "
                f"{', '.join(f'{edge:g}' for edge in BIN_EDGES)}",
                _REMEDY,
            )
    return result


class _UnfitError(Exception):
    """A value is not what its place needs; says where."""


def _checked(kind: Any, value: Any, where: str) -> Any:
    """``value`` of JSON as ``kind``: a dataclass, list, dict of text, number, text, or None."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {types.UnionType, Union}:
        return None if value is None else _checked(arguments[0], value, where)
    if is_dataclass(kind):
        if type(value) is not dict:
            raise _UnfitError(f"{where or 'content'} is no object")
        hints = get_type_hints(kind)
        make: Any = kind
        return make(
            **{
                f.name: _checked(hints[f.name], _entry(value, f.name, where), _join(where, f.name))
                for f in fields(kind)
            }
        )
    if origin is list:
        most = _MOST.get(arguments[0], _MOST_ENTRIES)
        if type(value) is not list or len(value) > most:
            raise _UnfitError(f"{where} is no list of at most {most:,} entries")
        return [_checked(arguments[0], own, f"{where}[{i}]") for i, own in enumerate(value)]
    if origin is dict:
        if type(value) is not dict or len(value) > _MOST_ENTRIES:
            raise _UnfitError(f"{where} is no object of at most {_MOST_ENTRIES:,} entries")
        return {key: _checked(arguments[1], own, _join(where, key)) for key, own in value.items()}
    return _checked_scalar(kind, value, where)


def _checked_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        if value is None:
            return math.nan
        if type(value) in {int, float} and not abs(value) > _LARGEST:
            return float(value)
        raise _UnfitError(f"{where} is no number")
    if type(value) is not kind or (kind is int and not 0 <= value <= _LARGEST):
        raise _UnfitError(f"{where} is no {'count' if kind is int else 'text'}")
    return value


def _entry(value: dict[str, Any], name: str, where: str) -> Any:
    if name not in value:
        raise _UnfitError(f"{_join(where, name)} is missing")
    return value[name]


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
