"""docs/adding.md as it stands: each thing is added on the fly, and the shared tests take it without an edit.

A portfolio of one's own goes to a published night in tests/flows/test_readme.py, a risk type in
tests/end_to_end/test_values.py; a card is planted in tests/unit/test_cards.py.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

from metarisk import warehouse
from metarisk.adapt import FittedModel, adapt, one_thread, recipes
from metarisk.domain import ConfigError, NightView
from metarisk.portfolios import extract_sql, load_portfolio, suite_path
from metarisk.quality.suites import load_suite
from metarisk.risks import RISKS
from tests.architecture.test_architecture import ROOT
from tests.unit import loan_examples
from tests.warehouses import publish_night, schema

PAGE = (ROOT / "docs" / "adding.md").read_text("utf-8")

PLACES = ("portfolios/my_loans.toml", "sql/extracts/my_loans.sql", "expectations/my_loans.json")


def blocks(heading: str) -> list[str]:
    """What stands in the fences under a heading."""
    return re.findall(r"```\w+\n(.*?)```", PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0], re.DOTALL)


def imported(monkeypatch: pytest.MonkeyPatch, file: Path, name: str) -> ModuleType:
    """The module in a file, under a name of its own for as long as the test lasts."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def planted(monkeypatch: pytest.MonkeyPatch, folder: Path, block: str) -> ModuleType:
    """The file that a block of the page is, at the path that its first line says, imported."""
    path = block.splitlines()[0].removeprefix("# ")
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_text(block)
    return imported(monkeypatch, folder / path, path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))


def rows(monkeypatch: pytest.MonkeyPatch, block: str, room: ModuleType, **names: object) -> None:
    """Put the rows that a block of the page is into the tables of a room."""
    for table, key, value in re.findall(r'^(\w+)\["(\w+)"\] = (.*)$', block, re.MULTILINE):
        monkeypatch.setitem(getattr(room, table), key, eval(value, vars(room) | names))


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The page's learner, in its tables."""
    file, table = blocks("A learner")
    module = planted(monkeypatch, tmp_path, file)
    rows(monkeypatch, table, recipes, NewtonStep=module.NewtonStep)
    return module


def cases(test: Any, name: str) -> Iterator[dict[str, object]]:
    """Arguments by which a shared test asks one learner; none where it does not ask every one."""
    asked = {mark.args[0]: list(mark.args[1]) for mark in getattr(test, "pytestmark", ())}
    if name in asked.get("name", ()):
        for values in product(*(asked | {"name": [name]}).values()):
            yield dict(zip(asked, values, strict=True))


def test_a_learner_is_a_file_and_a_row_that_the_shared_tests_take(
    learner: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = imported(monkeypatch, ROOT / "tests/unit/test_every_learner.py", "tests.unit.test_every_learner_again")
    tests = [test for name, test in vars(shared).items() if name.startswith("test_")]
    with one_thread():
        done = [test(**case) for test in tests for case in cases(test, "newton_step")]
    # one of row order, one of odd segments a likelihood, one of bad rows
    assert len(done) == 2 + len(shared.LIKELIHOODS)
    assert len(shared.takes("newton_step")) == len(shared.LIKELIHOODS) - 1
    with pytest.raises(ConfigError, match="prior must be"):
        learner.NewtonStep(prior=0.0)


def test_a_learner_that_was_added_is_fitted_and_adapts(learner: ModuleType) -> None:
    book, support = loan_examples.book(), loan_examples.support()
    model = loan_examples.fitted("newton_step", book)
    adapted = adapt(model, "model", support, loan_examples.PORTFOLIO, loan_examples.SPEC)
    assert {segment.status for segment in adapted.segments.values()} == {"adapted", "abstained"}
    # bits survive the file, and a segment with labels of its own is scored apart from the base
    again = FittedModel.from_files(model.to_files())
    assert again.recipe == recipes.RECIPES["newton_step"]
    link, _ = adapted.score(support, loan_examples.PORTFOLIO)
    same, _ = adapt(again, "model", support, loan_examples.PORTFOLIO, loan_examples.SPEC).score(
        support, loan_examples.PORTFOLIO
    )
    np.testing.assert_array_equal(link, same)
    assert not np.allclose(link, model.fresh(support)[1])


def written(project: Path, files: Iterable[tuple[str, str]]) -> Path:
    """A project's folder with these files."""
    for place, text in files:
        (project / place).parent.mkdir(parents=True)
        (project / place).write_text(text)
    return project


def test_a_portfolio_is_three_files(tmp_path: Path) -> None:
    files = list(zip(PLACES, blocks("A portfolio"), strict=True))
    assert all(place in PAGE for place in PLACES)
    project = written(tmp_path, files)
    portfolio = load_portfolio(project, "my_loans", RISKS)
    assert (portfolio.target.name, portfolio.columns.segments) == ("pd_12m", ("region", "product"))
    assert extract_sql(project, portfolio) == files[1][1]
    (rule,) = load_suite(suite_path(project, portfolio), {}, "my_loans")
    assert rule.severity == "critical"


def test_a_risk_type_is_a_folder_and_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (file,) = blocks("A risk type")
    monkeypatch.setitem(RISKS, "prepayment", planted(monkeypatch, tmp_path, file).SPEC)  # type: ignore[arg-type]
    spec = RISKS["prepayment"]
    for name in spec.candidates:
        assert name in recipes.RECIPES
    toml, *others = blocks("A portfolio")
    given = zip(
        PLACES, (toml.replace('"credit"', '"prepayment"') + "[options]\nshare_lost = 0.5\n", *others), strict=True
    )
    portfolio = load_portfolio(written(tmp_path / "project", given), "my_loans", RISKS)
    scores = pl.DataFrame({"entity": ["a", "b"], "segment": ["s", "s"], "target": ["pd_12m"] * 2, "score": [0.1, 0.4]})
    view = NightView(
        portfolio,
        date(2026, 1, 31),
        spec.options | portfolio.options,
        pl.DataFrame({"interest": [100.0, 50.0]}),
        scores,
        history=scores.lazy(),
        tables={},
        score=lambda rows: np.zeros(rows.height),
        published=lambda: scores,
        seed=0,
    )
    derived = spec.derive(view).scores
    assert derived.select("target", "score").rows() == [("interest_lost", 5.0), ("interest_lost", 10.0)]


def test_a_backend_is_a_folder_and_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, table = blocks("A backend of the warehouse")
    rows(monkeypatch, table, warehouse, personal=planted(monkeypatch, tmp_path / "code", file))
    given = {"threads": 1, "memory_mb": 256}
    opened = warehouse.open_warehouse("personal://ada", tmp_path, **given)
    opened.migrate(*schema())
    publish_night(opened, date(2026, 1, 31), run_id="r1")
    assert [row["entity"] for row in opened.rows("SELECT entity FROM metarisk.score_current ORDER BY entity")] == [
        "loan-0",
        "loan-1",
        "loan-2",
    ]
    assert (tmp_path / "ada.duckdb").exists()
    with pytest.raises(ConfigError, match="has the scheme 'personal'"):
        warehouse.open_warehouse("personal://no/body", tmp_path, **given)
