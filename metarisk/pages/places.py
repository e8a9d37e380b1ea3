"""Where pages are: one folder a portfolio."""

from __future__ import annotations

from pathlib import Path

from metarisk.job.context import Context


def folder(context: Context) -> Path:
    """Where the pages of a portfolio are."""
    return context.settings.data_dir / "reports" / context.job.portfolio


def night_page(context: Context, run_id: str) -> Path:
    """Where the page of a run is."""
    return folder(context) / f"{context.job.as_of}-{run_id}.html"


def week_page(context: Context, week_id: str) -> Path:
    """Where the page of a week is."""
    return folder(context) / f"week-{context.job.as_of}-{week_id}.html"


def unpublished_page(context: Context) -> Path:
    """Where the page of a night that published nothing is; it goes when the night is published."""
    return folder(context) / f"{context.job.as_of}-not-published.html"


def retracted_page(context: Context) -> Path:
    """Where the page of a night that was taken back is; it goes when the night is published again."""
    return folder(context) / f"{context.job.as_of}-retracted.html"


def failed_week_page(context: Context) -> Path:
    """Where the page of a week that registered no model is; it goes when the week did."""
    return folder(context) / f"week-{context.job.as_of}-failed.html"
