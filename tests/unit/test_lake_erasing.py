"""Files lose an entity's rows and nothing else, and a manifest says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from metarisk import folders, lake

ERASURE = lake.Erasure("L-22", "erased-0", "2026-07-01", "Ann", "request 1")
ROWS = pl.DataFrame(
    {"loan": ["L-1", "L-22", "L-22", "L-222"], "note": ["of L-22", None, "b", "L-222, L-1"], "x": [1, 2, 3, 4]}
)


def folder(root: Path) -> Path:
    with lake.staged(root / "extract") as into:
        for number in range(3):
            part = ROWS if number == 1 else ROWS[3:]
            part.write_parquet(into / f"part-{number}.parquet")
        lake.write_manifest(into, {"portfolio": "p", "rows": 6})
    return root / "extract"


@pytest.mark.parametrize("keep", [False, True])
def test_rows_of_the_entity_go_or_get_the_pseudonym(keep: bool, tmp_path: Path) -> None:
    found = folder(tmp_path)
    untouched = (found / "part-0.parquet").read_bytes()
    assert lake.erase(found, ERASURE, ["loan", "entity"], keep=keep) == 3
    named = ROWS.with_columns(pl.Series("note", ["of erased-0", None, "b", "L-222, L-1"]))
    kept = named.with_columns(pl.col("loan").replace("L-22", "erased-0"))
    expected = kept if keep else named.filter(pl.col("loan") != "L-22")
    assert pl.read_parquet(found / "part-1.parquet").equals(expected)
    assert (found / "part-0.parquet").read_bytes() == untouched
    manifest = lake.verify(found)
    (line,) = manifest[lake.ERASED]
    assert (line["pseudonym"], line["rows"], manifest["portfolio"]) == ("erased-0", 3, "p")
    assert list(lake.left(tmp_path, ERASURE)) == []
    assert lake.erase(found, ERASURE, ["loan", "entity"], keep=keep) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["extract"]


def test_what_is_not_rewritten_is_listed(tmp_path: Path) -> None:
    ROWS.rename({"loan": "guarantor"}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.json").write_text('{"L-22": 1}')
    (tmp_path / "c.json").write_text('{"L-222": 1, "XL-22": 2}')
    places = [(path.name, column) for path, column in lake.left(tmp_path, ERASURE)]
    assert places == [("a.parquet", "guarantor"), ("a.parquet", "note"), ("b.json", "")]


def test_a_short_name_is_a_whole_value_only() -> None:
    short = replace(ERASURE, entity="22")
    assert short.clean("22 rows, 22 for one") == "22 rows, 22 for one"
    assert short.clean("22") == "erased-0"
    assert ERASURE.clean("2 rows, L-22 for one") == "2 rows, erased-0 for one"


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = folder(tmp_path)

    def killed(beside: Path, final: Path) -> None:
        final.rename(tmp_path / "gone")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folders, "_take_place", killed)
        with pytest.raises(KeyboardInterrupt):
            lake.erase(found, ERASURE, ["loan"])
    assert not found.exists()
    lake.finish_rewriting(tmp_path)
    assert lake.verify(found)["rows"] == 4
