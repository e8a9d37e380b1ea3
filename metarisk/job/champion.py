"""Which model a night uses, and reading it from the registry."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path

from metarisk import registry
from metarisk.adapt import FittedModel
from metarisk.calibration import LevelRule
from metarisk.domain import Model, ModelError
from metarisk.features import KnownRange
from metarisk.job.context import Context
from metarisk.job.storage import from_registry, kept_folders, registry_root
from metarisk.record.backing import Backing, backing, unbacked
from metarisk.record.models import champions, models


def champion_for(context: Context) -> Model | None:
    """The newest champion, past or present, whose label cut-off is on or before the job's as_of.

    A night of the past so meets the model of its own time, and never one that has seen its future. A withdrawn model
    serves no night. Raises ModelError where no event of the log backs the state that decides.
    """
    job = context.job
    rows = champions(context.warehouse, job.portfolio, job.as_of)
    log = backing(context.warehouse, job.portfolio) if rows else Backing()
    for row in rows:
        withdrawn = row["last_state"] == "withdrawn"
        decides = {name: row[f"last_{name}" if withdrawn else name] for name in ("seq", "state", "since")}
        if not log.backs(decides | {"model_id": row["model_id"]}):
            raise unbacked(row["model_id"], decides["state"], job.portfolio)
        if not withdrawn:
            path = registry_root(context) / job.portfolio / row["model_id"]
            return Model(row["model_id"], job.portfolio, row["as_of"], row["recipe"], "champion", path)
    return None


SATURDAY = 5
"""Weekday (Monday is 0) of the label cut-off of a week: prefect.yaml starts it on Sunday, for the day before."""


def missing_weeks(context: Context, nights: Sequence[date]) -> list[date]:
    """Label cut-offs of the weeks that the schedule would have trained for these nights and that have no model.

    A night lacks its week where no model, whatever its state, has a label cut-off in the seven days up to it; the week
    is then that of the last Saturday up to the night. A model whose files were pruned counts as none.
    """
    if not nights:
        return []
    kept = {path.name for path in kept_folders(context, "registry")}
    rows = models(context.warehouse, context.job.portfolio)
    known = {row["as_of"] for row in rows if row["model_id"] in kept}
    missing: set[date] = set()
    for night in sorted(nights):
        if not any(night - timedelta(days=age) in known | missing for age in range(7)):
            missing.add(night - timedelta(days=(night.weekday() - SATURDAY) % 7))
    return sorted(missing)


CARD = "scorecard.json"
NO_LEVEL = LevelRule()


@dataclass(frozen=True)
class Card:
    """What a week learned for the score sheet, kept beside its model."""

    reasons_from: float = math.inf
    """Link-scale score from which a row gets reasons."""
    level: LevelRule = NO_LEVEL
    """How nights follow the level of the latest known months."""
    known_range: KnownRange | None = None
    """What labelled rows show; None: rows to be scored are not compared with it."""

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Card:
        """What `to_bytes` wrote."""
        parts = json.loads(content)
        found = parts.get("known_range")
        known_range = KnownRange.from_json(found) if found else None
        return cls(parts["reasons_from"], LevelRule(**parts["level"]), known_range)


def load_card(context: Context, model_id: str) -> Card:
    """What came with a model; a ModelError where the model is of a version without it."""
    return from_registry(context, model_id, _read)[1]


def load_model(context: Context, model_id: str) -> FittedModel:
    """Read a model, hash-checked; the last few stay in memory, for files never change under an id."""
    return from_registry(context, model_id, _read)[0]


@lru_cache(maxsize=4)
def _read(root: Path, portfolio: str, model_id: str) -> tuple[FittedModel, Card]:
    files = registry.load(root, portfolio, model_id)
    try:
        return FittedModel.from_files(files), Card.from_bytes(files[CARD])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"model {model_id} was written by another version of metarisk ({type(error).__name__}: {error})",
            portfolio=portfolio,
            remedy="run the weekly again",
        ) from error
