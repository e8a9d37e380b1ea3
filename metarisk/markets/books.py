"""Books of positions in assets that are scored, and what is to be said of positions in others."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import polars as pl


def books(positions: pl.DataFrame, assets: Collection[str]) -> Iterator[tuple[str, pl.DataFrame, list[dict[str, Any]]]]:
    """Each book's name, its positions (asset, held) in `assets`, and a measure for each position that is left out."""
    for (book,), held in positions.sort("book", "asset").group_by("book", maintain_order=True):
        known = held.filter(pl.col("asset").is_in(list(assets)) & pl.col("held").is_not_null())
        left_out = [
            {
                "kind": "position",
                "item": str(asset),
                "metric": "held",
                "value": value,
                "note": f"{book}: no price of {asset} is scored, it is left out. Correct its name, or load its bars",
            }
            for asset, value in held.join(known, on="asset", how="anti").select("asset", "held").iter_rows()
        ]
        yield str(book), known, left_out
