"""Three hundred damaged TOMLs, suites and extract SQLs: each loads or is refused in words, none ends in a traceback."""

from __future__ import annotations

import random
import shutil
from datetime import date
from pathlib import Path

import pytest

from metarisk.domain import ConfigError
from metarisk.portfolios import load_portfolio
from metarisk.quality.suites import load_suite
from metarisk.risks import RISKS
from tests.warehouses import ROOT

FILES = ("portfolios/consumer_loans.toml", "expectations/consumer_loans.json", "sql/extracts/consumer_loans.sql")
BITS = (
    "\0", '"\\u0000"', '"\\ud800"', '"', "[", "{", "}", "\n", "\ufeff",
    "[" * 3_000, "[" * 3_000 + "]" * 3_000, "{" * 3_000, '"' + "x" * 5_000 + '"', '"' + "y/" * 3_000 + '"',
    '"../../x.sql"', "1e999", "nan", "-inf", "9" * 40, "1979-05-27", "true", "[]", "{}", "null", "-1", '""',
)  # fmt: skip


def damaged(text: str, rng: random.Random) -> str:
    """One place of a file replaced, doubled or left out, or one value by another."""
    start = rng.randrange(len(text))
    end, bit = min(len(text), start + rng.randrange(1, 60)), rng.choice(BITS)
    lines = text.splitlines()
    place = rng.randrange(len(lines))
    sign = "=" if "=" in lines[place] else ":"
    return rng.choice(
        [
            text[:start] + bit + text[start:],
            text[:start] + text[end:],
            text[:start] + text[start:end] * rng.randrange(2, 50) + text[end:],
            "\n".join([*lines[:place], f"{lines[place].split(sign)[0]}{sign} {bit}", *lines[place + 1 :]]),
            "\n".join([*lines[:place], rng.choice(lines), *lines[place:]]),
            "\n".join([*lines[:place], bit, *lines[place + 1 :]]),
        ]
    )


def test_no_damage_ends_in_a_traceback(tmp_path: Path) -> None:
    for folder in ("portfolios", "expectations", "sql"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    refused = 0
    for seed in range(300):
        rng = random.Random(seed)
        file = FILES[seed % 3]
        (tmp_path / file).write_text(damaged((ROOT / file).read_text(), rng), encoding="utf-8")
        try:
            load_portfolio(tmp_path, "consumer_loans", RISKS)
            load_suite(tmp_path / FILES[1], {"as_of": date(2025, 6, 30)}, "consumer_loans")
        except ConfigError as error:
            refused += 1
            assert error.remedy
            assert len(str(error)) < 2_000
        (tmp_path / file).write_text((ROOT / file).read_text())
    assert refused > 100


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('"a\\u0000.sql"', "can be no file's name"),
        (f'"{"x" * 300}.sql"', "can be no file's name"),
        ("[" * 3_000 + "]" * 3_000, "nested too deep"),
    ],
)
def test_a_name_that_is_none_is_told(tmp_path: Path, value: str, words: str) -> None:
    shutil.copytree(ROOT / "portfolios", tmp_path / "portfolios")
    file = tmp_path / FILES[0]
    file.write_text(file.read_text().replace('"consumer_loans.sql"', value))
    with pytest.raises(ConfigError, match=words):
        load_portfolio(tmp_path, "consumer_loans", RISKS)
