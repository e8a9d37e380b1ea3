"""The page of a week of learning: its head, over the cards that say that they stand there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from metarisk.job.context import Context
from metarisk.job.identity import code_version
from metarisk.job.week import Trained
from metarisk.pages import places
from metarisk.pages.html import write
from metarisk.pages.model_card import write_card
from metarisk.pages.page import Kind, Page, gathered
from metarisk.pages.subjects import PublishedWeek, scoring_now


@dataclass(frozen=True, kw_only=True)
class Week(Page):
    """The page of one week: who was judged, on what, and who scores from now on, the champion."""

    kind: ClassVar[Kind] = "week"

    decision: Literal["promoted", "kept", "waiting", "failed"]
    reason: str
    """Why the challenger was promoted or not, in one sentence."""
    challenger: str = ""
    training_rows: int = 0
    training_events: int | None = None
    training_segments: int = 0

    @property
    def stopped(self) -> str:
        """Why no model was registered."""
        return self.reason if self.decision == "failed" else ""


def report_week(
    context: Context, trained: Trained, registered: Mapping[str, Any], seconds: Mapping[str, float]
) -> Path:
    """Write the page of a week, and the card of its model."""
    week = PublishedWeek(context, trained, registered, seconds)
    path = write(places.week_page(context, trained.judged.week_id), page(week).html())
    write_card(context, trained.model_id)
    context.reporter.link(f"week-{context.job.portfolio}", f"Week of {context.job.as_of}", path)
    return path


def page(week: PublishedWeek) -> Week:
    """The page of a week that registered a model."""
    context, trained, judged = week.context, week.trained, week.judged
    decision, found, checked = judged.decision, judged.evidence, judged.checked
    waits = not week.registered["promoted"]
    best = next((line.name for line in found.candidates), decision.recipe)
    approve = f"metarisk models approve -p {context.job.portfolio} --model {trained.model_id} --by NAME --reason WHY"
    unproved = f"retrospective evidence proves nothing: {found.retrospective}"
    return Week(
        title=context.portfolio.title or context.portfolio.name,
        portfolio=context.portfolio.name,
        as_of=context.job.as_of,
        run_id=judged.week_id,
        decision="waiting" if waits else "kept" if decision.recipe == judged.champion_recipe else "promoted",
        reason=decision.reason,
        champion=scoring_now(context),
        challenger="" if best == decision.recipe and not waits else best,
        training_rows=trained.rows,
        training_events=trained.events,
        training_segments=trained.segments,
        warnings=(*checked.extract.warnings, *judged.warnings, *([unproved] if found.retrospective else [])),
        next_steps=(approve,) if waits else (),
        provenance={"extract": checked.extract.extract_hash, "code": code_version()},
        cards=gathered("week", week),
    )
