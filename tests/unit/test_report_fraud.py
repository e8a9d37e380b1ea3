"""Sections of a fraud night: what data says is escaped, and drawn cases keep a place."""

from __future__ import annotations

import json

from metarisk.domain import MeasureRow
from metarisk.risks.fraud.cards import MOST_CASES, budget_chart, case_table


def case(rank: int, name: str, *, drawn: bool = False, why: str = "amount") -> list[MeasureRow]:
    note = json.dumps({"entity": f"T{rank}", "reasons": [{"code": "amount", "text": why, "points": -3.0}]})
    numbers = {"rank": rank, "score": 1 / (1 + rank), "at_risk": 1234.5, "rows": 2, "drawn": float(drawn), "chance": 1}
    return [
        MeasureRow("alert", name, "a|b", metric, float(value), note=note if metric == "score" else None)
        for metric, value in numbers.items()
    ]


def test_cases_stand_in_order_with_reasons_and_nothing_is_taken_for_a_tag() -> None:
    rows = case(2, "card-2") + case(1, "<b>card-1</b>", why="<script>alert(1)</script>") + case(3, "card-3", drawn=True)
    table = str(case_table(rows))
    assert table.index("card-1") < table.index("card-2") < table.index("card-3")
    assert "<script" not in table
    assert "<b>" not in table
    assert "&lt;script&gt;" in table
    assert table.count("<tr>") == 4
    assert table.count("drawn at random") == 1
    assert "1,234" in table
    assert "0.500" in table


def test_a_long_list_is_cut_and_says_so_and_keeps_what_was_drawn() -> None:
    rows = [row for rank in range(1, 41) for row in case(rank, f"card-{rank}", drawn=rank > 39)]
    table = str(case_table(rows))
    assert table.count("<tr>") == MOST_CASES + 1
    assert "card-40<" in table
    assert f"{MOST_CASES} of 40 cases" in table


def test_nights_without_a_fraud_leave_a_gap() -> None:
    rows = [
        MeasureRow("at_budget", "2025-06-01", None, "precision", 0.25),
        MeasureRow("at_budget", "2025-06-01", None, "recall", None),
        MeasureRow("at_budget", "2025-06-02", None, "precision", 0.5),
        MeasureRow("at_budget", "2025-06-02", None, "recall", 1.0),
        MeasureRow("at_budget", "2025-06-02", None, "alerts", 4.0),
    ]
    assert "alerts that were right" in str(budget_chart(rows))
