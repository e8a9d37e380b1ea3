"""The README's commands are run as they stand there, on a fresh data folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from metarisk.domain import DEMO_AS_OF
from metarisk.risks.credit.book import generate
from tests.browsing import chromium, opened

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(block: int) -> list[str]:
    """Commands of the README's n-th console block."""
    found = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)[block]
    return [line.removeprefix("$ ") for line in found.splitlines() if line.startswith("$ ")]


def run(command: str, folder: Path, data: Path) -> str:
    """Run one command line in a folder with its own data; what it printed."""
    words = shlex.split(command)
    words[0] = {"make": shutil.which("make") or "make"}.get(words[0], str(ROOT / words[0]))
    environment = os.environ | {"METARISK_DATA": str(data), "COLUMNS": "200"}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


made = pytest.mark.skipif(not (ROOT / ".venv/bin/metarisk").exists(), reason="the README's .venv was not made")


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the README's first command says."""
    first, second = commands(0)
    assert (first, second) == ("make demo", "make test")
    return run(first, ROOT, tmp_path_factory.mktemp("demo") / "data")


def pages_of(said: str) -> list[Path]:
    """Report pages that a command names."""
    return [Path(page) for page in re.findall(r"^report\s+(\S+\.html)$", said, flags=re.MULTILINE)]


@pytest.mark.xdist_group("prefect")
@made
def test_the_first_block_makes_the_demo(demonstrated: str) -> None:
    pages = pages_of(demonstrated)
    assert len(pages) == 2, demonstrated
    assert all("consumer_loans" in str(page) and page.stat().st_size > 10_000 for page in pages)
    assert "metarisk up" in demonstrated


@pytest.mark.xdist_group("prefect")
@made
def test_its_pages_open_in_a_browser_without_error_or_request(demonstrated: str) -> None:
    with chromium() as browser:
        for file in pages_of(demonstrated):
            page = opened(browser.new_context(viewport={"width": 1280, "height": 900}), file)
            assert "Consumer loans (demo)" in page.title()
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@made
def test_the_own_portfolio_works_from_a_file_to_a_published_night(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("sql", "expectations", "portfolios"):
        shutil.copytree(ROOT / name, project / name)
    tables = {name: pl.from_arrow(reader.read_all()) for name, reader in generate(0.3, 0).items()}
    loans, outcomes = (pl.DataFrame(tables[name]) for name in ("demo_loans", "demo_outcomes"))
    known = outcomes.filter(pl.col("known_date") <= DEMO_AS_OF, pl.col("outcome") == "defaulted").drop("outcome")
    loans.join(known, on="loan_id", how="left").write_parquet(project / "loans.parquet")
    for command in commands(1):
        said = run(command, project, tmp_path / "data")
        if "portfolio new" in command:
            # What the check would ask for, and the README says to look at: events of this book are known later.
            draft = project / "portfolios" / "my_book.toml"
            text = draft.read_text(encoding="utf-8")
            assert "CHECK" in text
            # Two candidates of the eight: the others learn in the first block's demo.
            text = 'candidates = ["pooled_logistic", "map_head"]\n' + text
            draft.write_text(re.sub(r"reporting_lag_days = \d+", "reporting_lag_days = 60", text), encoding="utf-8")
    assert re.search(r"my_book 2025-06-30: [\d,]+ rows published", said)
