"""What a week found and made: references that its steps hand on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from metarisk import evidence as evidences
from metarisk.job.run import Checked

SEED = 0  # any fixed one: a week made again is the same


@dataclass(frozen=True)
class Comparison:
    """What changes where the new model takes over from the champion before it."""

    before: str
    """Id of the champion before."""
    told: int
    """Riskiest rows whose reasons were compared."""
    changed: float
    """Share of them whose first reason is another."""
    swaps: tuple[dict[str, Any], ...] = ()
    """See backtests.swap_set; empty where the score is no probability."""
    migration: tuple[dict[str, Any], ...] = ()
    """See backtests.grade_migration."""

    def evidence_rows(self, recipe: str) -> list[dict[str, object]]:
        """Rows for the warehouse's `evidence` table, less the keys of the model."""
        about = {"candidate": recipe, "note": f"compared with model {self.before}"}
        told: dict[str, object] = {"protocol": "reasons", "slice": "all", "metric": "first_reason_changed"}
        rows = [told | {"value": self.changed, "rows": self.told}]
        rows += [{"protocol": "swap_set"} | line for line in self.swaps]
        rows += [{"protocol": "grade_migration"} | line for line in self.migration]
        return [about | row for row in rows]


@dataclass(frozen=True)
class Judged:
    """What walk-forward judgement found, and what it decided."""

    checked: Checked
    week_id: str
    folder: Path
    evidence: evidences.Evidence
    decision: evidences.Decision
    champion_recipe: str | None
    level: evidences.LevelChoice
    held_out: tuple[dict[str, object], ...] = ()
    """Rows for the table `evidence` on segments that were held out of training."""
    features: tuple[dict[str, object], ...] = ()
    """The same on each feature alone."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A model in the registry, not yet in the warehouse."""

    judged: Judged
    model_id: str
    path: Path
    rows: int
    events: int
    segments: int
    comparison: Comparison | None
    """With the champion before; None where there was none, or none that this version reads."""
    backtests: pl.DataFrame
    """Of published scores whose outcomes are known: see backtests.SCHEMA."""
    fairness: tuple[dict[str, object], ...]
    """Rows for the table `evidence`, less the keys of the model."""
