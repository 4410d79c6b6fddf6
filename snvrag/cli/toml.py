"""The file ``snvrag.toml``: settings of ``train`` that a folder keeps."""

import tomllib
from pathlib import Path
from typing import Any

from snvrag.errors import InputError

TOML_NAME = "snvrag.toml"
_MAX_TOML_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """Read a ``snvrag.toml``: the keys of ``snvrag train``'s options, under ``[train]``.

    Raises:
        InputError: the file is unreadable, too large, not TOML, or has another top-level table.
    """
    try:
        if path.stat().st_size > _MAX_TOML_BYTES:
            raise InputError(
                f"{path}: larger than the {_MAX_TOML_BYTES:,} bytes a setting file may have"
            )
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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
