"""SQL of schema `metarisk` stands in the rooms that keep it, and nowhere else."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.test_architecture import FILES, ROOT

ROOMS = ("metarisk/record/", "metarisk/warehouse/", "metarisk/quality/")
STATEMENT = re.compile(
    r"\b(from|join|into|update)\s+metarisk\.|\btable_schema\s*=\s*'metarisk'|^metarisk\.\w+$", re.IGNORECASE
)
"""A statement over the schema, a look at its catalogue, or the name of a table, to which a call may append."""
NO_TABLES = {
    # what events of an erasure call the tables that it rewrote
    ("metarisk/upkeep/audit.py", "metarisk.publication"),
    ("metarisk/upkeep/audit.py", "metarisk.model_state"),
    # a module, and a key of a column's metadata
    ("flows/demo.py", "metarisk.cli"),
    ("metarisk/loading/texts.py", "metarisk.unreadable"),
}


def statements(source: str) -> Iterator[str]:
    """String constants, f-strings part by part, that are SQL of the schema; documentation is none."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in documentation:
            continue
        if STATEMENT.search(node.value):
            yield node.value


@pytest.mark.parametrize(
    "source",
    [
        'rows("SELECT 1 FROM metarisk.run")',
        'rows(f"SELECT 1 FROM  metarisk.{table}")',
        'rows("SELECT 1 FROM x "\n"LEFT JOIN\\nmetarisk.run AS r")',
        'execute("""insert into metarisk.run SELECT 1""")',
        'transaction.append("metarisk.run", batches)',
        "rows(\"SELECT 1 FROM information_schema.tables WHERE table_schema = 'metarisk'\")",
    ],
)
def test_a_statement_is_seen(source: str) -> None:
    assert list(statements(source))


def elsewhere() -> set[tuple[str, str]]:
    """Files outside the rooms, and the statements that stand there."""
    found = {
        (str(path.relative_to(ROOT)), told)
        for path in FILES
        if not str(path.relative_to(ROOT)).startswith(ROOMS)
        for told in statements(path.read_text())
    }
    return found - NO_TABLES


def test_sql_of_the_schema_stands_in_its_rooms_alone() -> None:
    assert elsewhere() == set()
