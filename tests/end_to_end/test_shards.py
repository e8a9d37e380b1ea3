"""Scoring in shards gives the same bits however they are cut and whoever dies."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TypeVar

import pytest

from metarisk import lake, pipeline
from metarisk.domain import ConfigError
from metarisk.pipeline import chunks, sharding
from metarisk.pipeline.replaying import published as published_night
from metarisk.pipeline.sharding import Shard
from metarisk.warehouse import open_warehouse
from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, Project

Result = TypeVar("Result")
Part = TypeVar("Part")
PATIENCE_SECONDS = 120


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Six chunks in the tiny extract, and any shard is worth it."""
    patch.setattr(lake.extracts, "_GROUP_ROWS", 64)
    patch.setattr(chunks, "CHUNK_GROUPS", 2)
    patch.setattr(sharding, "WORTH_SECONDS", 1e-9)


@pytest.fixture
def project(duckdb: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a champion; its nights have six chunks."""
    make_small(monkeypatch)
    return duckdb


@pytest.fixture(scope="module")
def expected(trained_on_duckdb: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What such a night in one process leaves in the warehouse, manifests of its files among it."""
    alone = tiny.copy(trained_on_duckdb, tmp_path_factory.mktemp("alone") / "project")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        alone.nightly()
    return alone.contents()


class Packed:
    """Does parts last to first, each from its pickle and back; says how many there were."""

    def __init__(self) -> None:
        self.parts = 0

    def __call__(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        self.parts = len(parts)
        results = [work(pickle.loads(pickle.dumps(part))) for part in reversed(parts)]
        return results[::-1]


@pytest.mark.parametrize("most", [2, 64])
def test_any_number_of_shards_gives_the_bits_of_one(
    most: int, project: Project, expected: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "MOST_SHARDS", most)
    spread = Packed()
    pipeline.nightly(replace(project.context(FIRST), spread=spread))
    assert spread.parts == {2: 2, 64: 4}[most]
    assert not tiny.differences(project.contents(), expected)
    run = published_night(project.context(FIRST), FIRST).run
    listed = lake.read_manifest(run.folder / "score")["chunks"]
    assert [one["number"] for one in listed] == list(range(6))
    assert sum(one["rows"] for one in listed) == run.extract.rows
    assert [one["before"] for one in listed] == [sum(o["rows"] for o in listed[:n]) for n in range(6)]


def test_a_shard_carries_neither_rows_nor_a_password(project: Project) -> None:
    sent: list[bytes] = []

    def spread(work: Callable[[Shard], list[int]], parts: Sequence[Shard]) -> Iterator[list[int]]:
        for part in parts:
            sent.append(pickle.dumps(part))
            yield work(part)
            with pytest.raises(ConfigError):
                open_warehouse(part.settings.warehouse.get_secret_value(), Path(), threads=1, memory_mb=128)

    pipeline.nightly(replace(project.context(FIRST), spread=spread))
    assert sent
    assert max(map(len, sent)) < 20_000
    assert not any(b"warehouse.duckdb" in content for content in sent)


def die_in_second(project: Project) -> None:
    """A night that is killed when the first of its shards is done."""

    def spread(work: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
        yield work(parts[0])
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        pipeline.nightly(replace(project.context(FIRST), spread=spread))


def test_killed_between_shards_and_run_again(
    project: Project, forked: ForkServerContext, expected: dict[str, list[str]]
) -> None:
    process = forked.Process(target=die_in_second, args=(project,))
    process.start()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    left = list((project.settings.data_dir / "lake").rglob(".scratch-*/score/part-*.parquet"))
    assert len(left) == 2
    pipeline.nightly(replace(project.context(FIRST), spread=Packed()))
    assert not tiny.differences(project.contents(), expected)
    assert not any(path.exists() for path in left)
