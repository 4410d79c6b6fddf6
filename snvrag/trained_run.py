"""A training run's folder as others use it: which panel, which settings, which network.

Read without torch, since imputing with the light network does without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snvrag.config import RunConfig, run_config_from_json
from snvrag.copying import N_LOGITS, Bank
from snvrag.errors import InputError, MismatchError
from snvrag.panel import Panel
from snvrag.provenance import digest_json, read_json

RUN_FORMAT = "snvrag-run"
RUN_VERSION = 4
CONFIG = "config.json"
SHIPPED = Path("shipped")
"""Names the light network that comes with the package, for panels of any sites."""
BANK = "bank"
"""Key of the copying model's settings in ``config.json``."""
SETTINGS_DIGEST = "settings_digest"


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished or interrupted run as ``impute -m`` uses it."""

    path: Path
    config: RunConfig
    bank: Bank
    """Settings of the copying model whose evidence the network was trained with."""
    identity: dict[str, Any]

    @property
    def portable(self) -> bool:
        """Whether the network may serve panels of any sites: ``config.json`` has to say so.

        Only a light network can: it reads each site's evidence and no positions in a window.
        """
        return self.identity.get("portable") is True and self.config.model.network == "light"

    def check_panel(self, panel: Panel) -> None:
        """Refuse a panel with other sites than the network was trained for.

        Raises:
            MismatchError: the network is not portable; shows both sets of sites.
        """
        if self.portable or self.identity.get("sites_digest") == panel.sites.digest():
            return
        ours = [
            f"{name}:{panel.positions[first]:,}-{panel.positions[last - 1]:,}, {last - first:,}"
            for name, first, last in panel.sites.chromosomes()
        ]
        try:
            theirs = [
                f"{name}:{first:,}-{last:,}, {n:,}"
                for name, n, first, last in self.identity["chromosomes"]
            ]
        except (KeyError, TypeError, ValueError):
            theirs = ["it does not say which"]
        raise MismatchError(
            f"{self.path}: was trained for other sites ({'; '.join(theirs)} sites) than those of "
            f"{panel.path} ({'; '.join(ours)} sites)",
            f"train on this panel: snvrag train {panel.path}, or impute without -m",
        )


def load_run(path: Path) -> TrainedRun:
    """Read what a run folder says of itself; its weights stay where they are.

    Raises:
        InputError: the folder's ``config.json`` is absent, damaged or of another format version.
    """
    if path == SHIPPED and not path.exists():
        path = Path(__file__).with_name("shipped")
    where = path / CONFIG
    if not where.is_file():
        what = f"holds no {CONFIG}" if path.is_dir() else "no such run folder"
        raise InputError(f"{path}: {what}", "give a folder that snvrag train wrote")
    identity = read_json(where)
    found = (identity.get("format_name"), identity.get("format_version"))
    if found != (RUN_FORMAT, RUN_VERSION):
        raise InputError(
            f"{where}: format {found[0]!r} version {found[1]!r}, not {RUN_FORMAT!r} "
            f"version {RUN_VERSION}",
            "give a folder that snvrag train wrote, or train again",
        )
    config = run_config_from_json(identity.get("config", {}), str(where))
    bank = bank_from_json(identity.get(BANK), str(where))
    # Runs of earlier versions have none.
    if identity.get(SETTINGS_DIGEST, "") not in ("", settings_digest(identity)):
        raise InputError(
            f"{where}: was changed: the digest does not match its settings",
            "give a folder as snvrag train wrote it",
        )
    return TrainedRun(path, config, bank, identity)


def settings_digest(identity: Mapping[str, Any]) -> str:
    """Hex SHA-256 of what ``config.json`` says of the network and the copying model."""
    return digest_json({name: identity.get(name) for name in ("config", BANK)})


def bank_from_json(value: Any, where: str) -> Bank:
    """A bank as ``config.json`` holds it.

    Raises:
        InputError: it is none; ``where`` names the file.
    """
    try:
        bank = tuple((float(c), float(e)) for c, e in value)
    except (TypeError, ValueError, OverflowError):
        bank = ()
    if len(bank) != N_LOGITS or not all(0 < c < 1e6 and 0 < e < 0.5 for c, e in bank):
        raise InputError(
            f"{where}: the copying model's bank is not {N_LOGITS} pairs of a switch rate and a "
            "mismatch probability below 0.5",
            "give a folder that snvrag train wrote, or train again",
        )
    return bank
