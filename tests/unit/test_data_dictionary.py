"""docs/data-dictionary.md says what both databases hold: every table, view, column, type and null, and no other."""

from __future__ import annotations

import re

from metarisk.domain import Warehouse
from tests.warehouses import ROOT

TYPES = {
    "VARCHAR": "text",
    "TIMESTAMP WITH TIME ZONE": "timestamp",
    "DOUBLE": "double",
    "DOUBLE PRECISION": "double",
}
Column = tuple[str, str, str, str | None]


def documented() -> dict[Column, str]:
    """(table or view, column, type, null) to its meaning; null is None in views."""
    page = (ROOT / "docs" / "data-dictionary.md").read_text("utf-8")
    found = {}
    for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        name, text = section.split("\n", 1)
        for line in re.findall(r"^\| `.*$", text, flags=re.MULTILINE):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            null = cells[2] if len(cells) == 4 else None
            found[name, cells[0].strip("`"), cells[1], null] = cells[-1]
    return found


def test_the_page_is_what_the_database_holds(warehouse: Warehouse) -> None:
    rows = warehouse.rows(
        "SELECT c.table_name AS t, c.column_name AS name, c.data_type AS type, c.is_nullable AS nullable, "
        "t.table_type AS kind FROM information_schema.columns c "
        "JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name "
        "WHERE c.table_schema = 'metarisk' AND c.table_name NOT LIKE 'risk_score_%'"
    )
    held = {
        (
            row["t"],
            row["name"],
            TYPES.get(row["type"].upper(), row["type"].lower()),
            None if row["kind"] == "VIEW" else row["nullable"].lower(),
        )
        for row in rows
    }
    assert held == set(documented())


def test_every_column_has_a_meaning() -> None:
    assert [column for column, meaning in documented().items() if len(meaning) < 3] == []
