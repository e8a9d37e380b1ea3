"""Nights and weeks whose extract is read in ranges make what those of one stream do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from metarisk import lake
from metarisk.steps import extract
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CUT_OFF, FIRST, Project, differences
from tests.warehouses import Server

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


@pytest.mark.xdist_group("postgresql")
def test_a_week_and_a_night_read_in_ranges_are_those_of_one_stream(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, whole = [], lake.extract

    def counted(readers: Sequence[pa.RecordBatchReader], *about: Any, **options: Any) -> lake.Extract:
        read.append(len(readers))
        return whole(readers, *about, **options)

    found = []
    for partitions in (1, 3):
        toml = tiny.TOML.replace("[source]", f"[source]\npartitions = {partitions}")
        url = postgresql.url(postgresql.create_database())
        project = tiny.make(tmp_path / f"in-{partitions}", url, toml=toml)
        extract.extract(
            project.context(CUT_OFF - timedelta(days=1))
        )  # the keys of an extract tell where to cut the next
        with monkeypatch.context() as counting:
            counting.setattr(lake, "extract", counted)
            week = project.weekly(CUT_OFF)
            assert project.nightly(FIRST).outcome == "published"
        found.append((week.model_id, project.contents()))
    assert read == [1, 1, 3, 3]
    (of_one, one), (of_three, three) = found
    assert of_one == of_three
    assert differences(one, three) == []
