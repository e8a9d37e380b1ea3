"""A loan book with a known truth: 60 region x product segments, macro drift, delayed labels and a few dirty rows.

What is in it, and why:

- **Sizes** follow power laws in region and product: the largest segment has some 7,500 loans, the smallest some 45.
- **Segment effects** on the log-odds of default: region N(0, .35), product N(0, .4), cell N(0, .25), and a region's own
  sensitivity to the economy, so that segments both share strength and differ.
- **Macro drift**: the log-odds rise and fall with a cycle of three years on a slow upward trend; amounts grow and the
  online channel gains, so that inputs drift as well.
- **Truth** is not linear: bureau score, utilisation squared, debt above a third of income, thin credit files, and three
  interactions. About three in a hundred loans default within twelve months.
- **Time**: hazards peak in the first year and start after three missed payments; prepayment and maturity compete. A
  default is known 10 to 55 days after it happens, a repayment after 1 to 5.
- **Dirt**, at fixed row numbers: negative income, a bureau score of 9999, a first credit after the opening date (each
  for the suite to quarantine), and NaN utilisation (which becomes null).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Array = NDArray[Any]

DEMO_LOANS = 36_000
"""Loans at scale 1."""

_FIRST, _LAST = np.datetime64("2022-01-01"), np.datetime64("2025-12-31")
_CHUNK = 50_000
_DAYS_A_MONTH = 30.4375

_REGIONS = np.array(
    [
        "north",
        "capital",
        "coast",
        "west",
        "lakes",
        "south",
        "valley",
        "highland",
        "east",
        "islands",
        "border",
        "desert",
    ],
    dtype=object,
)
_PRODUCTS = np.array(["cash_loan", "car_loan", "card_refinance", "home_improvement", "education"], dtype=object)
_EMPLOYMENT = np.array(["employed", "self_employed", "retired", "student", "unemployed"], dtype=object)
_CHANNELS = np.array(["branch", "broker", "online"], dtype=object)
_HOMES = np.array(["rent", "mortgage", "own"], dtype=object)
_AGES = np.array(["18-29", "30-44", "45-59", "60+"], dtype=object)
_TERMS = np.array([12, 24, 36, 48, 60])

_MONTHS = np.arange(61)
_AGEING = np.maximum(_MONTHS - 3, 0) * np.exp(-np.maximum(_MONTHS - 3, 0) / 8)
_CUMULATED = np.cumsum(_AGEING) / _AGEING[:13].sum()
"""Cumulated hazard by age in months, 1 at twelve months; no default comes before the fourth."""

_LOANS = pa.schema(
    [
        ("loan_id", pa.string()),
        ("opened_on", pa.date32()),
        ("region", pa.string()),
        ("product", pa.string()),
        ("amount", pa.float64()),
        ("term_months", pa.int32()),
        ("income", pa.float64()),
        ("debt_to_income", pa.float64()),
        ("utilisation", pa.float64()),
        ("bureau_score", pa.float64()),
        ("inquiries_6m", pa.int32()),
        ("months_since_delinquency", pa.float64()),
        ("employment", pa.string()),
        ("channel", pa.string()),
        ("home", pa.string()),
        ("first_credit_on", pa.date32()),
        ("age_band", pa.string()),
    ]
)
_OUTCOMES = pa.schema(
    [("loan_id", pa.string()), ("outcome", pa.string()), ("event_date", pa.date32()), ("known_date", pa.date32())]
)


@dataclass(frozen=True)
class _World:
    """What all loans share: sizes and effects of segments."""

    seed: int
    region_share: Array
    product_share: Array
    region: Array
    product: Array
    cell: Array
    sensitivity: Array


def generate(scale: float = 1.0, seed: int = 0) -> Mapping[str, pa.RecordBatchReader]:
    """The demo's source tables as streams of batches, in flat memory.

    Args:
        scale: multiplies the 36,000 loans; the loans of a smaller scale are the first loans of a larger one.
        seed: of everything that is drawn.

    Returns:
        `demo_loans` (one row a loan) and `demo_outcomes` (one row a loan whose end was known by the end of 2025).

    Raises:
        ValueError: a scale that gives no loan.
    """
    loans = round(DEMO_LOANS * scale)
    if loans < 1:
        raise ValueError(f"a scale of {scale} gives no loan; use {1 / DEMO_LOANS:.1e} or more")
    world = _world(seed)

    def batches(table: Callable[[_World, int], pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for chunk in range(-(-loans // _CHUNK)):
            yield table(world, chunk)

    def outcomes(world: _World, chunk: int) -> pa.RecordBatch:
        return _outcomes(world, chunk, loans - chunk * _CHUNK)

    def accounts(world: _World, chunk: int) -> pa.RecordBatch:
        return _loans(world, chunk).slice(0, loans - chunk * _CHUNK)

    return {
        "demo_loans": pa.RecordBatchReader.from_batches(_LOANS, batches(accounts)),
        "demo_outcomes": pa.RecordBatchReader.from_batches(_OUTCOMES, batches(outcomes)),
    }


def _world(seed: int) -> _World:
    rng = np.random.default_rng([seed, 0])
    region_share = 1 / np.arange(1, len(_REGIONS) + 1) ** 1.3
    product_share = 1 / np.arange(1, len(_PRODUCTS) + 1) ** 1.2
    return _World(
        seed=seed,
        region_share=region_share / region_share.sum(),
        product_share=product_share / product_share.sum(),
        region=rng.normal(0, 0.35, len(_REGIONS)),
        product=rng.normal(0, 0.40, len(_PRODUCTS)),
        cell=rng.normal(0, 0.25, (len(_REGIONS), len(_PRODUCTS))),
        sensitivity=rng.uniform(0.5, 1.5, len(_REGIONS)),
    )


def _draw(world: _World, chunk: int) -> dict[str, Array]:
    """Features of a whole chunk of loans, before any dirt, each an array (50,000,)."""
    rng = np.random.default_rng([world.seed, 1, chunk])
    n = _CHUNK
    region = rng.choice(len(_REGIONS), n, p=world.region_share)
    product = rng.choice(len(_PRODUCTS), n, p=world.product_share)
    opened = _FIRST + rng.integers(0, int((_LAST - _FIRST).astype(int)) + 1, n)
    years = (opened - _FIRST).astype(int) / 365.25
    quality = rng.normal(0, 1, n)
    age = 18 + rng.gamma(4.0, 7.0, n).clip(0, 70)
    file_years = np.minimum(rng.gamma(2.0, 5.0, n), age - 18) + 0.1
    income = np.exp(10.3 + 0.25 * quality + 0.1 * (product == 1) + rng.normal(0, 0.45, n))
    size = np.array([0.18, 0.45, 0.30, 0.38, 0.22])[product]
    amount = income * size * np.exp(0.06 * years + rng.normal(0, 0.5, n))
    # The online channel gains about eight points of share a year.
    online = rng.random(n) < 0.25 + 0.08 * years
    employment = rng.choice(5, n, p=[0.70, 0.13, 0.09, 0.05, 0.03])
    return {
        "region": region,
        "product": product,
        "opened": opened,
        "years": years,
        "amount": np.round(amount.clip(500, 150_000), -1),
        "term": _TERMS[rng.choice(5, n, p=[0.08, 0.2, 0.4, 0.17, 0.15])],
        "income": np.round(income, 2),
        "debt": np.round(rng.beta(2.2, 5.5, n) + 0.05 * (quality < -1), 4),
        "utilisation": np.round(np.clip(0.42 - 0.14 * quality + rng.normal(0, 0.2, n), 0, 1.3), 4),
        "bureau": np.round((655 + 62 * quality + rng.normal(0, 35, n)).clip(300, 850)),
        "inquiries": rng.poisson(np.exp(-0.4 - 0.3 * quality)).astype(np.int32),
        "delinquency": np.where(rng.random(n) < 0.22 - 0.06 * quality, rng.integers(0, 120, n).astype(float), np.nan),
        "no_card": rng.random(n) < 0.02,
        "employment": employment,
        "channel": np.where(online, 2, rng.choice(2, n, p=[0.7, 0.3])),
        "home": rng.choice(3, n, p=[0.45, 0.40, 0.15]),
        "first_credit": opened - (file_years * 365.25).astype(int),
        "file_years": file_years,
        "age": np.digitize(age, [30, 45, 60]),
    }


def _log_odds(world: _World, x: Mapping[str, Array]) -> Array:
    """True log-odds of a default within twelve months of opening (50,000,)."""
    years = x["years"]
    macro = 0.35 * np.sin(2 * np.pi * years / 3) + 0.12 * years
    burden = x["amount"] / x["income"]
    self_employed, broker = x["employment"] == 1, x["channel"] == 1
    return np.asarray(
        -4.2
        + world.region[x["region"]]
        + world.product[x["product"]]
        + world.cell[x["region"], x["product"]]
        + world.sensitivity[x["region"]] * macro
        - 0.75 * (x["bureau"] - 655) / 70
        + 0.9 * x["utilisation"] ** 2
        + 4.0 * np.maximum(x["debt"] - 1 / 3, 0)
        + 0.7 * np.exp(-x["file_years"] / 2)
        + 0.15 * np.minimum(x["inquiries"], 4)
        + np.nan_to_num(0.5 * np.exp(-x["delinquency"] / 24))
        + 0.35 * (x["employment"] == 4)
        + 0.8 * self_employed * x["utilisation"]
        + 0.5 * broker * (x["term"] >= 48)
        + 0.6 * (x["product"] == 0) * np.minimum(burden, 1.5)
    )


def _loans(world: _World, chunk: int) -> pa.RecordBatch:
    x = _draw(world, chunk)
    index = np.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK)
    first_credit = np.where(index % 4001 == 501, x["opened"] + 400, x["first_credit"])
    utilisation = pa.array(
        np.where(index % 5003 == 11, np.nan, x["utilisation"]), mask=x["no_card"] & (index % 5003 != 11)
    )
    delinquency = x["delinquency"]
    columns = [
        _ids(index),
        pa.array(x["opened"]),
        _names(_REGIONS, x["region"]),
        _names(_PRODUCTS, x["product"]),
        pa.array(x["amount"]),
        pa.array(x["term"].astype(np.int32)),
        pa.array(np.where(index % 2503 == 1201, -x["income"], x["income"])),
        pa.array(x["debt"]),
        utilisation,
        pa.array(np.where(index % 3001 == 77, 9999.0, x["bureau"])),
        pa.array(x["inquiries"]),
        pa.array(delinquency, mask=np.isnan(delinquency)),
        _names(_EMPLOYMENT, x["employment"]),
        _names(_CHANNELS, x["channel"]),
        _names(_HOMES, x["home"]),
        pa.array(first_credit),
        _names(_AGES, x["age"]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_LOANS)


def _outcomes(world: _World, chunk: int, loans: int) -> pa.RecordBatch:
    """Ends of the first `loans` loans of a chunk that were known by the end of 2025."""
    x = _draw(world, chunk)
    rng = np.random.default_rng([world.seed, 2, chunk])
    n = _CHUNK
    twelve_months = np.logaddexp(0, _log_odds(world, x))  # cumulated hazard that gives this probability
    default = np.interp(rng.exponential(1, n) / twelve_months, _CUMULATED, _MONTHS, right=np.inf)
    repaid = np.minimum(rng.exponential(45, n) + 1, x["term"])
    defaulted = default < repaid
    event = x["opened"] + (np.where(defaulted, default, repaid) * _DAYS_A_MONTH).astype(int)
    slow = 10 + np.minimum(rng.gamma(2.0, 9.0, n), 45).astype(int)
    known = event + np.where(defaulted, slow, rng.integers(1, 6, n))
    kept = np.flatnonzero((known <= _LAST) & (np.arange(n) < loans))
    columns = [
        _ids(chunk * _CHUNK + kept),
        _names(np.array(["repaid", "defaulted"], dtype=object), defaulted[kept].astype(int)),
        pa.array(event[kept]),
        pa.array(known[kept]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_OUTCOMES)


def _names(labels: Array, codes: Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(labels)).dictionary_decode()


def _ids(index: Array) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(index).cast(pa.string()), 8, "0")
    return pc.binary_join_element_wise("L", digits, "")
