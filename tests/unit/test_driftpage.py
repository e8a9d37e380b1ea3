"""The drift page: everything that data says is escaped, and a page without any finding stands."""

from datetime import date

from metarisk.drift.decide import SUSPECTED
from metarisk.drift.pictures import Side
from metarisk.pages.cards.drift.aftermath import Aftermath
from metarisk.pages.cards.drift.worst import Worst
from metarisk.pages.drift import Drift
from metarisk.pages.page import Champion
from metarisk.pages.subjects import DriftLine

EVIL = "<script>alert(1)</script>|'\"&\x00\u202e"
DAY = date(2026, 6, 30)


def page(lines=(), **cards):
    return Drift(
        title=EVIL, portfolio="tiny", as_of=DAY, run_id="r", night_page="n.html",
        champion=Champion("m", "map_head", DAY, 3),
        cards={"findings": lines, "where": lines, **cards},
    ).html()  # fmt: skip


def month(number, ratio, low, high):
    return DriftLine("", "all", str(number), "month_on_book", "ok", ratio, None, None, 0, 0, low=low, high=high)


def test_nothing_found_is_a_page_that_says_so():
    text = page()
    assert "No open alert" in text
    assert "Nothing is open." in text


def test_what_data_says_is_escaped_and_every_part_is_drawn():
    line = DriftLine(EVIL, "cell", EVIL, "psi", "alert", 0.3, 0.25, 0.1, 500, 400, 0.001, EVIL)
    concept = DriftLine(EVIL, "cell", "", "concept", SUSPECTED, None, None, None, 10, 400, None, EVIL)
    sides = (Side(EVIL, 0.5, 0.2), Side(EVIL, 0.5, 0.7), Side("missing", 0.0, 0.1))
    nights = ((date(2026, 6, 28), 0.01, "ok"), (date(2026, 6, 29), None, "blind"), (DAY, 0.25, "alert"))
    alert = {
        "alert_id": "id", "segment": EVIL, "feature": EVIL, "metric": "psi", "status": SUSPECTED, "opened_as_of": DAY,
        "detail": EVIL, "told": "message", "acknowledged_by": EVIL, "muted_until": DAY,
    }  # fmt: skip
    segment = {
        "segment": EVIL, "status": SUSPECTED, "data_status": "ok", "performance_status": "ok", "label_status": "alert",
        "judged_at": "cell", "ratio": 2.0, "min_detectable_ratio": None, "detail": EVIL,
    }  # fmt: skip
    text = page(
        (line, concept),
        alerts=[alert, alert | {"muted_until": None}],
        worst=(Worst(line, sides, nights), Worst(line, (), nights[:1])),
        segments=[segment],
        aftermath=Aftermath([month(1, 9.0, 0.5, 12.0), month(2, 1.0, 0.8, 1.2)], [EVIL]),
    )
    assert text.count("muted until") == 1
    assert text.count("acknowledged by") == 1
    assert "<script" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert text.count("<svg") == 4, "map, months, histogram, time line"
    assert f'class="tag {SUSPECTED}"' in text
