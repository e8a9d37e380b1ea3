"""Expectation suites over Parquet: what a run may rest on, what it sets aside, and what stops it.

The only package that knows Great Expectations, which it imports when a check begins and not before.
"""

from metarisk.quality import guarding
from metarisk.quality.book import FINDINGS, MAX_UNKNOWN_EVENTS
from metarisk.quality.checking import check
from metarisk.quality.recoding import segment_recode
from metarisk.quality.results import Quality, Result
from metarisk.quality.suites import score_parameters

__all__ = [
    "FINDINGS",
    "MAX_UNKNOWN_EVENTS",
    "Quality",
    "Result",
    "check",
    "guarding",
    "score_parameters",
    "segment_recode",
]
