"""A night whose extract is read in ranges publishes what a night of one stream does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from metarisk import lake
from tests.end_to_end.tiny import FIRST, Project

RUN = "SELECT extract_hash, rows_extracted, rows_scored FROM metarisk.run"


def test_a_night_read_in_ranges(
    kind: str, project: Project, published_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, whole = [], lake.extract

    def counted(readers: Sequence[pa.RecordBatchReader], *about: Any, **options: Any) -> lake.Extract:
        read.append(len(readers))
        return whole(readers, *about, **options)

    monkeypatch.setattr(lake, "extract", counted)
    project.edit("portfolios/tiny.toml", "[source]", "[source]\npartitions = 3")
    assert project.nightly(FIRST).outcome == "published"
    assert read == [3 if kind == "postgresql" else 1]
    assert project.warehouse.rows(RUN) == published_project.warehouse.rows(RUN)
    assert project.scores().equals(published_project.scores())
