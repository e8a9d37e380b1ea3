"""Folders of two versions of the code: the same contents under other names, and contents that are others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from metarisk import lake

ROWS = pl.DataFrame({"entity": ["a", "b", "c"], "score": [0.1, 0.2, 0.3], "extrapolated": [False, None, True]})
LEVEL = {"shift": {"north": 0.25}, "parents": [1.0, 2.0]}
Files = Mapping[str, object]


def folder(path: Path, files: Files) -> Path:
    """A sealed folder `score` of frames, arrays, JSON and bytes."""
    path = path / "score"
    path.mkdir(parents=True)
    for name, content in files.items():
        match content:
            case pl.DataFrame():
                content.write_parquet(path / name)
            case bytes():
                (path / name).write_bytes(content)
            case _ if name.endswith(".safetensors"):
                save_file({"weights": np.array(content)}, path / name)
            case _:
                (path / name).write_text(json.dumps(content))
    lake.write_manifest(path, {})
    return path


@pytest.fixture
def compared(tmp_path: Path) -> Callable[[Files, Files], tuple[list[str], list[str], set[str]]]:
    def of(then: Files, now: Files) -> tuple[list[str], list[str], set[str]]:
        old, new = folder(tmp_path / "then", then), folder(tmp_path / "now", now)
        found = lake.compare(old, new, lake.read_manifest(old)["files"])
        return found.differences, found.layout, found.added

    return of


SAME = {
    "equal": ({"part-0.parquet": ROWS}, {"part-0.parquet": ROWS}, []),
    "another name": (
        {"part-0.parquet": ROWS},
        {"part-00000.parquet": ROWS},
        ["score/part-0.parquet is named part-00000.parquet"],
    ),
    "a table of another name and column": (
        {"scores.parquet": ROWS.drop("extrapolated")},
        {"part-0.parquet": ROWS},
        [
            "score/scores.parquet is named part-0.parquet",
            "score/part-0.parquet has extrapolated, which then had not",
        ],
    ),
    "a column that is gone": (
        {"part-0.parquet": ROWS},
        {"part-0.parquet": ROWS.drop("extrapolated")},
        ["score/part-0.parquet has no extrapolated, which then had"],
    ),
    "other cuts": (
        {"part-0.parquet": ROWS},
        {"part-0.parquet": ROWS[:2], "part-1.parquet": ROWS[2:]},
        ["score/part-0.parquet is named part-0.parquet, part-1.parquet"],
    ),
    "another order and a wider type": (
        {"part-0.parquet": ROWS.with_columns(n=pl.Series([1, 2, 3], dtype=pl.Int32))},
        {"part-0.parquet": ROWS.with_columns(n=pl.Series([1, 2, 3], dtype=pl.Int64))[[2, 0, 1]]},
        ["score/part-0.parquet has other bytes"],
    ),
    "a key of JSON": (
        {"level.json": LEVEL},
        {"level.json": LEVEL | {"unit": "logit"}},
        ["score/level.json has unit, which then had not"],
    ),
    "a new file": ({"level.json": LEVEL}, {"level.json": LEVEL, "recency.json": {}}, ["score/recency.json is new"]),
}
OTHERS = {
    "a number": (
        {"part-0.parquet": ROWS},
        {"part-0.parquet": ROWS.with_columns(pl.col("score").add(1e-16))},
        "score/part-0.parquet: score is another",
    ),
    "a number under another name": (
        {"part-0.parquet": ROWS},
        {"part-00000.parquet": ROWS.with_columns(pl.col("score") * 2)},
        "score/part-00000.parquet: score is another",
    ),
    "a row": (
        {"part-0.parquet": ROWS},
        {"part-0.parquet": ROWS[1:]},
        "score/part-0.parquet: entity has 2 values and had 3",
    ),
    "a null": (
        {"part-0.parquet": ROWS},
        {"part-0.parquet": ROWS.with_columns(extrapolated=pl.lit(False))},
        "score/part-0.parquet: extrapolated is another",
    ),
    "a narrower type": (
        {"part-0.parquet": ROWS},
        {"part-0.parquet": ROWS.with_columns(pl.col("score").cast(pl.Int64))},
        "score/part-0.parquet: score is another",
    ),
    "a leaf of JSON": (
        {"level.json": LEVEL},
        {"level.json": LEVEL | {"shift": {"north": 0.2500000001}}},
        "score/level.json: shift.north is another",
    ),
    "a tensor": (
        {"a.safetensors": [1.0, 2.0]},
        {"a.safetensors": [1.0, 2.5]},
        "score/a.safetensors: weights is another",
    ),
    "bytes": ({"model.txt": b"tree 1"}, {"model.txt": b"tree 2"}, "score/model.txt: its bytes is another"),
    "a file that is gone": (
        {"level.json": LEVEL, "recency.json": {"a": 1}},
        {"level.json": LEVEL},
        "score/recency.json of then is not made any more",
    ),
    "nothing in common": (
        {"part-0.parquet": ROWS.select("score")},
        {"part-0.parquet": ROWS.select("entity")},
        "score/part-0.parquet has nothing in common with that of then",
    ),
}


@pytest.mark.parametrize(("then", "now", "layout"), SAME.values(), ids=SAME)
def test_other_names_are_told_and_differ_in_nothing(
    then: Files, now: Files, layout: list[str], compared: Callable[[Files, Files], tuple[list[str], ...]]
) -> None:
    differences, told, *_ = compared(then, now)
    assert (differences, told) == ([], layout)


@pytest.mark.parametrize(("then", "now", "said"), OTHERS.values(), ids=OTHERS)
def test_other_contents_differ(
    then: Files, now: Files, said: str, compared: Callable[[Files, Files], tuple[list[str], ...]]
) -> None:
    differences, *_ = compared(then, now)
    assert said in differences


def test_files_of_then_that_were_changed_since_prove_nothing(tmp_path: Path) -> None:
    """Nobody makes a night the same by writing what is scored now into the lake."""
    old, new = folder(tmp_path / "then", {"part-0.parquet": ROWS}), folder(tmp_path / "now", {"part-0.parquet": ROWS})
    sums = {"part-0.parquet": "of other bytes"}
    said = "score/part-0.parquet is another file than that of then, which the lake no longer has"
    assert lake.compare(old, new, sums).differences == [said]
    (old / "part-0.parquet").unlink()
    assert lake.compare(old, new, sums).differences == [said]
