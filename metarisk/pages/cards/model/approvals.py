"""Who approved it: its states, by whom, and why."""

from metarisk.pages.cards.model import Section, section
from metarisk.pages.subjects import RegisteredModel


def _gather(model: RegisteredModel) -> Section:
    rows = [
        {
            "state": row["state"],
            "since": f"{row['since']:%Y-%m-%d %H:%M}",
            "by": row["by_whom"],
            "why": row["reason"] or "",
        }
        for row in model.states
    ]
    return Section("Who approved it", rows=rows)


CARD = section(10, _gather)
