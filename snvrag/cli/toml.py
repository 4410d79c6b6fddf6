"""The file ``snvrag.toml``: settings of ``train`` that a folder keeps."""

import tomllib
from pathlib import Path
from typing import Any

from snvrag.errors import InputError
from snvrag.provenance import check_regular, read_bytes

TOML_NAME = "snvrag.toml"
_MAX_TOML_BYTES = 1 << 16
# What tomllib takes grows with the square of a key's parts.
_MAX_LINE = 1 << 12


def read_toml(path: Path) -> dict[str, Any]:
    """Read a ``snvrag.toml``: the keys of ``snvrag train``'s options, under ``[train]``.

    Raises:
        InputError: the file is unreadable, too large, not TOML, or has another top-level table.
    """
    try:
        check_regular(path)
        text = read_bytes(path, _MAX_TOML_BYTES).decode("utf-8")
        if max(map(len, text.splitlines()), default=0) > _MAX_LINE:
            raise InputError(f"{path}: has a line of more than {_MAX_LINE:,} characters")
        data = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not valid TOML ({error})", "see README, 'snvrag.toml'"
        ) from error
    extra = set(data) - {"train"}
    if extra or not isinstance(data.get("train", {}), dict):
        raise InputError(
            f"{path}: {sorted(extra)[0] if extra else 'train'!r} is not understood",
            "settings stand in one table named [train]",
        )
    settings: dict[str, Any] = data.get("train", {})
    return settings
