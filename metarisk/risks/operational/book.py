"""Operational losses with a known truth: 30 cells of business line x event type, 48 sites, a growing book.

What is in it, and why:

- **Exposure** of a site is its thousands of transactions a quarter: of unequal size, growing by some 8 % a year; a
  third of the sites open after the first year.
- **Rates** by line, event type and cell (log effects N(0, .5), N(0, .5), N(0, .3)), higher with staff turnover,
  backlog and overtime, lower with good controls and automation, which helps against errors and not against fraud;
  counts scatter beyond Poisson (gamma, size 4). Damage in advice and in asset management is so rare that there is none.
- **Amounts**: lognormal around the scale of the event type, a twelfth of them with a GPD tail above six times of it
  whose shape is .5 on average and N(0, .08) by cell; collected from 1,000 on.
- **Time**: a loss is known some four weeks after it happened, a few after half a year; a quarter is final 60 days after
  its end.
- **Dirt**, at fixed places: exposures of zero and below, a recovery booked as a loss, a loss that came twice, and one
  in another currency.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Array = NDArray[Any]

SITES = 48
"""Sites at scale 1."""
LINES = ("payments", "retail", "lending", "trading", "custody", "advice")
EVENTS = ("execution", "external_fraud", "clients_products", "systems", "damage")
COUNTRIES = ("DE", "FR", "ES", "NL", "IT")
FLOOR = 1_000.0
"""Amount from which losses are collected."""
FINAL_DAYS = 60

_QUARTERS = [date(2019 + q // 4, 3 * (q % 4) + 1, 1) for q in range(29)]
"""Quarters and the end of the last one."""
_LAST = date(2025, 12, 31)
_LINE_RATE = np.array([0.55, 0.25, 0.0, -0.2, -0.5, -0.8])
_EVENT_RATE = np.array([0.6, 0.25, -0.3, -0.1, -1.0])
_EVENT_SCALE = np.array([7_000.0, 5_000.0, 16_000.0, 9_000.0, 12_000.0])


def generate(scale: float = 1.0, seed: int = 0) -> Mapping[str, pa.RecordBatchReader]:
    """The source tables; the sites of a smaller scale are the first ones of a larger.

    Returns:
        `demo_op_exposures` (one row a site, event type and quarter) and `demo_op_losses` (one row a loss).

    Raises:
        ValueError: a scale that gives fewer sites than there are business lines.
    """
    sites = round(SITES * scale)
    if sites < len(LINES):
        raise ValueError(f"a scale of {scale} gives {sites} sites; use {len(LINES) / SITES} or more")
    parts = [_site(number, seed) for number in range(sites)]
    exposures = pl.concat([exposure for exposure, _ in parts])
    losses = _soiled(pl.concat([loss for _, loss in parts]).sort("occurred_on", "unit_id", "amount"))
    # what is not at risk has no rate: one row of a closed counter, one correction
    dirt = pl.int_range(pl.len())
    exposures = exposures.with_columns(
        exposure=pl.when(dirt % 2003 == 1501).then(0.0).when(dirt % 2503 == 2001).then(-1.0).otherwise("exposure")
    )
    return {
        "demo_op_exposures": exposures.to_arrow().to_reader(),
        "demo_op_losses": losses.to_arrow().to_reader(),
    }


def tail_shapes(seed: int = 0) -> Array:
    """True tail shapes, (lines, events)."""
    return np.asarray(0.5 + 0.08 * np.random.default_rng([seed, 12]).standard_normal((len(LINES), len(EVENTS))))


def _site(number: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Exposures and losses of one site."""
    rng = np.random.default_rng([seed, 11, number])
    line = number % len(LINES)
    quarters, events = len(_QUARTERS) - 1, len(EVENTS)
    opening = 0 if rng.random() < 0.67 else int(rng.integers(4, 16))
    years = np.arange(quarters) / 4
    exposure = np.exp(rng.normal(3.0, 0.8) + 0.08 * years + rng.normal(0, 0.06, quarters))
    turnover = np.clip(0.12 + 0.05 * np.cumsum(rng.normal(0, 0.15, quarters)) + rng.normal(0, 0.03), 0.01, 0.5)
    automation = np.clip(rng.uniform(0.1, 0.5) + 0.04 * years + rng.normal(0, 0.02, quarters), 0, 0.95)
    control = np.clip(rng.normal(70, 10) + np.cumsum(rng.normal(0, 2, quarters)), 20, 100)
    overtime = np.clip(rng.normal(0.06, 0.03) + 0.4 * (turnover - 0.12) + rng.normal(0, 0.02, quarters), 0, 0.4)
    backlog = np.exp(rng.normal(1.2, 0.3) + 2.0 * (overtime - 0.06) + rng.normal(0, 0.3, quarters))
    cell = 0.3 * np.random.default_rng([seed, 13]).standard_normal((len(LINES), events))[line]
    log_rate = (
        -5.3
        + _LINE_RATE[line]
        + _EVENT_RATE
        + cell
        + rng.normal(0, 0.25)
        + np.outer(3.0 * turnover - 0.025 * (control - 70) + 0.25 * np.log(backlog) + 2.0 * overtime, np.ones(events))
        - np.outer(automation, [1.5, -0.2, 0.2, 0.6, 0.0])
        - np.where(np.arange(events) == EVENTS.index("damage"), 40.0 * (line >= 4), 0.0)
    )
    mean = exposure[:, None] * np.exp(log_rate)
    counts = rng.poisson(mean * rng.gamma(4.0, 0.25, mean.shape))
    counts[:opening] = 0
    at, event = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    starts = np.array(_QUARTERS, dtype="datetime64[D]")
    occurred = starts[at] + (rng.random(len(at)) * (starts[at + 1] - starts[at]).astype(int)).astype(int)
    known = occurred + (1 + rng.gamma(1.5, 18.0, len(at))).astype(int)
    losses = pl.DataFrame(
        {
            "unit_id": [f"U{number:03d}"] * len(at),
            "event_type": np.array(EVENTS)[event],
            "occurred_on": occurred,
            "known_on": known,
            "amount": _amounts(rng, line, event, seed),
            "currency": ["EUR"] * len(at),
        },
        schema_overrides={"event_type": pl.String, "currency": pl.String, "unit_id": pl.String},
    )
    rows = np.arange(opening, quarters)
    quarter = np.repeat(rows, events)
    repeated = {
        name: np.repeat(np.round(values[rows], 4), events)
        for name, values in {
            "exposure": exposure,
            "staff_turnover": turnover,
            "automation": automation,
            "control_score": control,
            "overtime": overtime,
            "backlog_days": backlog,
        }.items()
    }
    ends = starts[quarter + 1]
    exposures = pl.DataFrame(
        {
            "unit_id": [f"U{number:03d}"] * len(quarter),
            "legal_entity": [COUNTRIES[(number // len(LINES)) % len(COUNTRIES)]] * len(quarter),
            "business_line": [LINES[line]] * len(quarter),
            "event_type": np.tile(np.array(EVENTS), len(rows)),
            "quarter_start": starts[quarter],
            "quarter_end": ends,
            "final_on": ends + FINAL_DAYS,
            **repeated,
        }
    )
    return exposures, losses.filter(pl.col("known_on") <= _LAST)


def _amounts(rng: np.random.Generator, line: int, event: Array, seed: int) -> Array:
    """Amounts (N,) of losses of one line by the number of their event type."""
    scale, shape = _EVENT_SCALE[event], tail_shapes(seed)[line][event]
    body = np.minimum(scale * np.exp(rng.normal(0, 1.0, len(event))), 6 * scale)
    tail = 6 * scale + 4 * scale * np.expm1(shape * rng.exponential(size=len(event))) / shape
    amount = np.where(rng.random(len(event)) < 1 / 12, tail, body)
    return np.asarray(np.round(np.maximum(amount, FLOOR * (1 + rng.random(len(event)))), 2))


def _soiled(losses: pl.DataFrame) -> pl.DataFrame:
    """Losses in their order with names, and with what goes wrong at fixed places of them."""
    named = losses.with_columns(
        pl.format("E{}", pl.int_range(pl.len()).cast(pl.String).str.zfill(6)).alias("loss_id")
    ).select("loss_id", *losses.columns)
    place = pl.int_range(pl.len())
    wrong = named.with_columns(
        pl.when(place % 997 == 400).then(-pl.col("amount")).otherwise("amount").alias("amount"),
        pl.when(place % 997 == 700).then(pl.lit("USD")).otherwise("currency").alias("currency"),
    )
    return pl.concat([wrong, wrong.gather_every(997, offset=200)])
