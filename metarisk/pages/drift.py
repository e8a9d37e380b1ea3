"""The page of a night's drift: its head, over the cards that say that they stand there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from metarisk.drift.decide import SUSPECTED
from metarisk.pages.page import Kind, Page, gathered
from metarisk.pages.subjects import PublishedNight


@dataclass(frozen=True, kw_only=True)
class Drift(Page):
    """The drift page of a published run."""

    kind: ClassVar[Kind] = "drift"

    night_page: str
    """Address of the night's page, seen from this one."""

    @property
    def counts(self) -> Counter[str]:
        """Tests by status."""
        return Counter(line.status for line in self.cards.get("findings", ()) if line.decides)

    @property
    def tone(self) -> str:
        """The colour of its head."""
        found = self.counts
        return "bad" if found["alert"] + found[SUSPECTED] else "watch" if found["watch"] else "good"


def page(night: PublishedNight, night_page: str) -> Drift:
    """The drift page of a published night, whose own page has that address."""
    portfolio, run = night.context.portfolio, night.run
    return Drift(
        title=portfolio.title or portfolio.name,
        portfolio=night.context.job.portfolio,
        as_of=night.context.job.as_of,
        run_id=run.run_id,
        champion=night.champion,
        night_page=night_page,
        provenance={"extract": run.extract.extract_hash, "code": run.code_version},
        cards=gathered("drift", night),
    )
