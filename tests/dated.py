"""A book of transactions around a day of some time zone, times in any type, and its drafted portfolio."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from metarisk.domain import Portfolio, Target, Warehouse
from metarisk.portfolios import draft_portfolio, load_portfolio
from tests.warehouses import ROOT

STEP = timedelta(minutes=15)
DAYS_AROUND = 3
DAYS: dict[str, date] = {
    "UTC": date(2025, 6, 29),
    "Pacific/Kiritimati": date(2025, 6, 29),  # 14 hours ahead
    "Pacific/Pago_Pago": date(2025, 6, 29),  # 11 hours behind
    "America/New_York": date(2025, 3, 9),  # 23 hours
    "Europe/Berlin": date(2025, 10, 26),  # 25 hours
    "America/Sao_Paulo": date(2018, 11, 4),  # begins at 01:00
    "Asia/Beirut": date(2025, 10, 26),  # the evening before comes twice
    "America/Havana": date(2025, 11, 2),  # its first hour comes twice
}
"""By time zone a day that is hard there."""
TYPES: dict[str, pa.DataType] = {
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}


def local(moment: datetime, zone: str) -> datetime:
    """What a clock on a wall of the zone says."""
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def moments(zone: str, middle: date) -> list[datetime]:
    """Every quarter of an hour of some days around one, and the last microsecond before each local midnight."""
    first = datetime(middle.year, middle.month, middle.day, tzinfo=UTC) - timedelta(days=DAYS_AROUND)
    grid = [first + number * STEP for number in range(2 * DAYS_AROUND * timedelta(days=1) // STEP)]
    before = [at - timedelta(microseconds=1) for at in grid if local(at - STEP, zone).date() < local(at, zone).date()]
    return sorted(grid + before)


def transactions(zone: str, made: list[datetime], kind: str) -> pa.Table:
    """Each a third of a fraud that is known 20 hours later; times are as `kind` of TYPES says."""
    as_kind: dict[str, Callable[[datetime], Any]] = {
        "date": lambda at: local(at, zone).date(),
        "timestamp": lambda at: local(at, zone),
        "timestamptz": lambda at: at,
    }
    of, fraud = as_kind[kind], [number % 3 == 0 for number in range(len(made))]
    known = [at + timedelta(hours=20) for at in made]
    return pa.table(
        {
            "transaction_id": [f"T{number:05}" for number in range(len(made))],
            "opened_at": pa.array([of(at) for at in made], TYPES[kind]),
            "region": [f"R{number % 2}" for number in range(len(made))],
            "amount": [1.0 + number % 7 for number in range(len(made))],
            "fraud_at": pa.array([of(at) if bad else None for at, bad in zip(made, fraud, strict=True)], TYPES[kind]),
            "known_at": pa.array([of(at) if bad else None for at, bad in zip(known, fraud, strict=True)], TYPES[kind]),
        }
    )


def drafted(warehouse: Warehouse, name: str, zone: str, folder: Path) -> Portfolio:
    """The draft of `source.<name>` written to a folder, for a horizon of one day in a time zone."""
    for path, text in draft_portfolio(name, f"source.{name}", warehouse).files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    shutil.copy(ROOT / "expectations" / "scores.json", folder / "expectations")
    portfolio = load_portfolio(folder, name)
    return replace(portfolio, risk="fraud", timezone=zone, targets=(Target("fraud", horizon_days=1),))
