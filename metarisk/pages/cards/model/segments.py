"""Segments: the largest and the thinnest among the rows that judged."""

from metarisk.pages.cards.model import Section, section, with_interval
from metarisk.pages.subjects import RegisteredModel

SHOWN = 10
"""Largest, and thinnest, segments that a validator looks at."""


def _gather(model: RegisteredModel) -> Section:
    rows = (row for row in model.evidence if row["protocol"] == "segments")
    found = sorted(rows, key=lambda row: (-row["rows"], row["slice"]))
    if not found:
        return Section("Segments", ["No segment was judged against an opponent."])
    sentences = [f"{len(found):,} segments judged it, from {found[0]['rows']:,} rows to {found[-1]['rows']:,}."]
    shown = found if len(found) <= 2 * SHOWN else [*found[:SHOWN], *found[-SHOWN:]]
    if len(shown) < len(found):
        sentences.append(f"Shown are the {SHOWN} largest and the {SHOWN} thinnest.")
    lines = [
        {
            "segment": row["slice"],
            "rows": f"{row['rows']:,}",
            "events": f"{row['events']:,}",
            "loss less the opponent's": with_interval(row),
        }
        for row in shown
    ]
    return Section("Segments", sentences, lines)


CARD = section(50, _gather)
