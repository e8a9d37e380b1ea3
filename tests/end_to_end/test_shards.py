"""Scoring in shards gives the same bits however they are cut and whoever dies, and no finished chunk is done again."""

from __future__ import annotations

import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TypeVar

import pytest

from metarisk import jobs, lake
from metarisk.domain import ConfigError
from metarisk.job import population
from metarisk.job.published import published as published_night
from metarisk.jobs import Quiet
from metarisk.steps import score as sharding
from metarisk.steps.score import FINISHED, Shard
from metarisk.warehouse import open_warehouse
from tests.end_to_end import tiny
from tests.end_to_end.dying import die
from tests.end_to_end.tiny import FIRST, NAME, Project

Result = TypeVar("Result")
Part = TypeVar("Part")
PATIENCE_SECONDS = 120


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Six chunks in the tiny extract, and any shard is worth it."""
    patch.setattr(lake.extracts, "_GROUP_ROWS", 64)
    patch.setattr(population, "CHUNK_GROUPS", 2)
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


@dataclass
class Elsewhere:
    """Does parts last to first, each from its pickle and back; keeps their names and pickles."""

    here: bool = False
    sent: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, work: Callable[[Part], Result], parts: Mapping[str, Part]) -> list[Result]:
        self.sent = {name: pickle.dumps(part) for name, part in parts.items()}
        results = [work(pickle.loads(content)) for content in reversed(self.sent.values())]
        return results[::-1]


@dataclass
class Here:
    """Does parts as they come; keeps their names."""

    here: bool = True
    names: list[str] = field(default_factory=list)

    def __call__(self, work: Callable[[Part], Result], parts: Mapping[str, Part]) -> Iterator[Result]:
        for name, part in parts.items():
            self.names.append(name)
            yield work(part)


@pytest.mark.parametrize("most", [2, 64])
def test_any_number_of_shards_gives_the_bits_of_one(
    most: int, project: Project, expected: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "MOST_SHARDS", most)
    spread = Elsewhere()
    jobs.nightly(replace(project.context(FIRST), spread=spread))
    assert len(spread.sent) == {2: 2, 64: 4}[most]
    assert not tiny.differences(project.contents(), expected)
    run = published_night(project.context(FIRST), FIRST).run
    listed = lake.read_manifest(run.folder / "score")["chunks"]
    assert [one["number"] for one in listed] == list(range(6))
    assert sum(one["rows"] for one in listed) == run.extract.rows
    assert [one["before"] for one in listed] == [sum(o["rows"] for o in listed[:n]) for n in range(6)]
    assert not (run.folder / FINISHED).exists()


def test_shards_of_one_process_have_its_bits_and_say_which_rows_are_theirs(
    project: Project, expected: dict[str, list[str]]
) -> None:
    spread = Here()
    jobs.nightly(replace(project.context(FIRST), spread=spread))
    assert not tiny.differences(project.contents(), expected)
    run = published_night(project.context(FIRST), FIRST).run
    names = [re.fullmatch(rf"shard (\d) of 4 {NAME} {FIRST}, rows ([\d,]+) to ([\d,]+)", name) for name in spread.names]
    number, first, last = zip(
        *[[int(n.replace(",", "")) for n in found.groups()] for found in names if found], strict=True
    )
    assert number == (1, 2, 3, 4)
    # The first chunk is not in a shard: it tells what they cost.
    assert first == (
        lake.read_manifest(run.folder / "score")["chunks"][1]["before"] + 1,
        *(end + 1 for end in last[:-1]),
    )
    assert last[-1] == run.extract.rows


def test_a_shard_carries_neither_rows_nor_a_password(project: Project) -> None:
    spread = Elsewhere()
    jobs.nightly(replace(project.context(FIRST), spread=spread))
    assert spread.sent
    for content in spread.sent.values():
        assert len(content) < 20_000
        assert b"warehouse.duckdb" not in content
        shard: Shard = pickle.loads(content)
        with pytest.raises(ConfigError):
            open_warehouse(shard.settings.warehouse.get_secret_value(), Path(), threads=1, memory_mb=128)


@dataclass(frozen=True)
class Death:
    """A call at which a night dies, and how many of its six chunks are finished then."""

    event: str
    path: str
    chunks: int


DEATHS = {
    "a chunk is written but not sealed": Death("open", rf".*/{FINISHED}/00003/.scratch-[^/]*/score/manifest.json", 3),
    "a chunk is sealed but has no name": Death("os.rename", rf".*/{FINISHED}/00003/score", 3),
    "a chunk is there": Death("open", rf".*/{FINISHED}/00004/.scratch-[^/]*/score/manifest.json", 4),
    "half of the chunks are gathered": Death("os.link", ".*/part-00003.parquet", 6),
    "all of them have no name": Death("os.rename", r".*/runs/\w+/score", 6),
    "what is gathered is cleared": Death("shutil.rmtree", rf".*/{FINISHED}", 6),
}


def die_at(project: Project, death: Death, spread: Here | Elsewhere) -> None:
    """A night that is killed just before a call that an auditor hears."""

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        if event == death.event and any(re.fullmatch(death.path, str(one)) for one in arguments):
            die()

    sys.addaudithook(heard)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        jobs.nightly(replace(project.context(FIRST), spread=spread))


def files(project: Project, pattern: str) -> dict[str, int]:
    """Score files in the lake by name, and which file of the disk each is."""
    return {path.name: path.stat().st_ino for path in (project.settings.data_dir / "lake").rglob(pattern)}


@pytest.mark.parametrize("death", DEATHS.values(), ids=[*DEATHS])
def test_killed_and_run_again_no_finished_chunk_is_scored_again(
    death: Death, project: Project, forked: ForkServerContext, expected: dict[str, list[str]]
) -> None:
    kill(forked, project, death, Here())
    finished = files(project, f"{FINISHED}/*/score/part-*.parquet")
    assert len(finished) == death.chunks
    told = Scored()
    jobs.nightly(replace(project.context(FIRST, reporter=told), spread=Here()))
    assert not tiny.differences(project.contents(), expected)
    scores = files(project, "runs/*/score/part-*.parquet")
    assert len(scores) == 6
    assert {name: scores[name] for name in finished} == finished
    assert told.chunks == 6 - death.chunks
    assert not [*project.settings.data_dir.rglob(FINISHED), *project.settings.data_dir.rglob(".scratch-*")]


def test_workers_go_on_with_what_others_left(
    project: Project, forked: ForkServerContext, expected: dict[str, list[str]]
) -> None:
    # The last shard, of two chunks, is the first that is done; then comes chunk 3.
    kill(forked, project, DEATHS["a chunk is sealed but has no name"], Elsewhere())
    finished = files(project, f"{FINISHED}/*/score/part-*.parquet")
    assert [*sorted(finished)] == [f"part-{number:05}.parquet" for number in (0, 4, 5)]
    told = Scored()
    jobs.nightly(replace(project.context(FIRST, reporter=told), spread=Elsewhere()))
    assert told.chunks == 3
    assert not tiny.differences(project.contents(), expected)


def test_a_chunk_that_is_damaged_or_not_of_this_very_run_is_scored_again(
    project: Project, forked: ForkServerContext, expected: dict[str, list[str]]
) -> None:
    kill(forked, project, DEATHS["a chunk is there"], Here())
    (left,) = project.settings.data_dir.rglob(FINISHED)
    with (left / "00000/score/part-00000.parquet").open("r+b") as file:
        file.seek(40)
        file.write(b"\x00\xff\x00\xff")
    (left / "00001/score/part-00001.parquet").unlink()
    # Whole, but by other versions of packages: these may round otherwise.
    other = left / "00002/score"
    made = lake.read_manifest(other) | {"versions": {"polars": "0.1"}}
    lake.write_manifest(other, made)
    told = Scored()
    jobs.nightly(project.context(FIRST, reporter=told))
    assert told.chunks == 5
    assert not tiny.differences(project.contents(), expected)


def kill(forked: ForkServerContext, project: Project, death: Death, spread: Here | Elsewhere) -> None:
    """Let a night run until it dies."""
    process = forked.Process(target=die_at, args=(project, death, spread))
    process.start()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == -signal.SIGKILL


class Scored(Quiet):
    """Counts chunks as they are scored."""

    def __init__(self) -> None:
        self._rows: list[int] = []

    def progress(self, name: str, done: int, total: int, note: str = "") -> None:
        """Note how many rows are done."""
        if name == "score":
            self._rows.append(done)

    @property
    def chunks(self) -> int:
        """Chunks that were scored after what was told first, which is what was there."""
        return max(len(self._rows) - 1, 0)
