"""The drift page: everything that data says is escaped, and a page without any finding stands."""

from datetime import date

from metarisk.drift.decide import SUSPECTED
from metarisk.drift.pictures import Side
from metarisk.report import Champion, DriftLine
from metarisk.report.driftpage import AlertLine, DriftReport, SegmentLineStatus, Worst, render_drift

EVIL = "<script>alert(1)</script>|'\"&\x00\u202e"
DAY = date(2026, 6, 30)


def page(**changes):
    values = {
        "title": EVIL, "portfolio": "tiny", "as_of": DAY, "run_id": "r", "night_page": "n.html",
        "champion": Champion("m", "map_head", DAY, 3), "lines": (), "alerts": (), "worst": (), "segments": (),
        "months": (), "done": (),
    }  # fmt: skip
    return render_drift(DriftReport(**(values | changes)))


def test_nothing_found_is_a_page_that_says_so():
    text = page()
    assert "No open alert" in text
    assert "Nothing is open." in text


def test_what_data_says_is_escaped_and_every_part_is_drawn():
    line = DriftLine(EVIL, "cell", EVIL, "psi", "alert", 0.3, 0.25, 0.1, 500, 400, 0.001, EVIL)
    concept = DriftLine(EVIL, "cell", "", "concept", SUSPECTED, None, None, None, 10, 400, None, EVIL)
    sides = (Side(EVIL, 0.5, 0.2), Side(EVIL, 0.5, 0.7), Side("missing", 0.0, 0.1))
    nights = ((date(2026, 6, 28), 0.01, "ok"), (date(2026, 6, 29), None, "blind"), (DAY, 0.25, "alert"))
    text = page(
        lines=(line, concept),
        alerts=(AlertLine("id", EVIL, EVIL, SUSPECTED, DAY, EVIL, "message", EVIL, DAY),),
        worst=(Worst(line, sides, nights), Worst(line, (), nights[:1])),
        segments=(SegmentLineStatus(EVIL, SUSPECTED, "ok", "ok", "alert", "cell", 2.0, None, EVIL),),
        months=((1, 9.0, 0.5, 12.0), (2, 1.0, 0.8, 1.2)),
        done=(EVIL,),
    )
    assert "<script" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert text.count("<svg") == 4, "map, months, histogram, time line"
    assert f'class="tag {SUSPECTED}"' in text
