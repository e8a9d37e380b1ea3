"""The step extract: a portfolio's SELECT becomes a folder of the lake."""

from __future__ import annotations

import re
from pathlib import Path

from metarisk import lake
from metarisk.domain import ConfigError, DataError
from metarisk.domain.hashing import text_hash
from metarisk.job.context import Context
from metarisk.job.dates import require_one_day
from metarisk.portfolios import extract_sql


def extract(context: Context) -> lake.Extract:
    """Stream the portfolio's SELECT into the lake."""
    return extract_into(context, context.settings.data_dir / "lake")


def extract_into(context: Context, root: Path) -> lake.Extract:
    """Stream the portfolio's SELECT into a lake."""
    sql = extract_sql(context.settings.project, context.portfolio)
    ranges = lake.key_ranges(context.portfolio, root)
    try:
        with context.warehouse.streams(sql, {"as_of": context.job.as_of}, ranges) as readers:
            require_one_day(context, readers[0].schema)
            return lake.extract(
                readers,
                context.portfolio,
                context.job.as_of,
                root,
                text_hash(sql),
                memory_mb=context.settings.memory_mb,
                threads=context.settings.threads,
                progress=lambda done, total, note: context.reporter.progress("extract", done, total, note),
            )
    except (ConfigError, DataError) as error:
        if error.portfolio is not None:
            raise
        # Of the warehouse, which does not know whose SQL it ran, and quotes the value that it refuses.
        hidden = isinstance(error, DataError) and context.portfolio.columns.personal
        said = re.sub("['\"].*['\"]", "'***'", error.what) if hidden else error.what
        what = f"{context.portfolio.source.extract}: {said}"
        raise type(error)(what, remedy=error.remedy, portfolio=context.job.portfolio, on=context.job.as_of) from None
