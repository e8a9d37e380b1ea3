"""The score step: an extract is cut into chunks, each with a file of scores of its own, and shards are lists of chunks.

Chunks follow from the extract alone, so who scores them, where, how many at a time and in how many attempts changes no
bit.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
from pydantic import SecretStr

from metarisk import lake, scoring
from metarisk.bases import tree_threads
from metarisk.domain import DataError, Job
from metarisk.domain.hashing import text_hash
from metarisk.job.champion import load_card
from metarisk.job.context import Context, Quiet
from metarisk.job.identity import versions
from metarisk.job.population import Chunk, chunks_of, population_chunks
from metarisk.job.run import Run, finished, load_adapted, load_level
from metarisk.settings import Settings

WORTH_SECONDS = 3.0
"""Least work of a shard: handing one over costs about 0.15 s on Ray, of which this is twenty times as much."""
MOST_SHARDS = 64
"""More cost the task runner's server more than a longer tail would cost the night."""
FINISHED = "chunks"
"""Folder of a run's finished chunks, each a whole folder or none, until `score/` has them all."""


@dataclass(frozen=True)
class Shard:
    """Chunks that one worker scores: references alone, neither rows nor a connection nor a password."""

    job: Job
    settings: Settings
    run: Run
    chunks: tuple[Chunk, ...]

    def __str__(self) -> str:
        """Where its rows are in the extract, for people."""
        first, last = self.chunks[0], self.chunks[-1]
        rows = f"rows {first.before + 1:,} to {last.before + last.rows:,}"
        return f"{self.job.portfolio} {self.job.as_of}, {rows}"


def score(context: Context, run: Run) -> Run:
    """Score the population into `score/`, one file a chunk of the extract, in its order and in flat memory.

    Chunks that an attempt finished before it died are not scored again.
    """
    if not finished(run.folder / "score"):
        lake.verify(run.extract.directory)
        chunks = chunks_of(run.extract)
        counts = {chunk: count for chunk in chunks if (count := _count_of_before(run, chunk)) is not None}
        left = [chunk for chunk in chunks if chunk not in counts]
        _tell(context, run, counts)
        for chunk, count in zip(left, _counts(context, run, left), strict=True):
            counts[chunk] = count
            _tell(context, run, counts)
        if not any(counts.values()):
            raise DataError(
                f"none of {run.extract.rows:,} extracted rows is in the population to be scored",
                portfolio=context.job.portfolio,
                column=context.portfolio.columns.opened_on,
                on=context.job.as_of,
                remedy="check as_of, the horizon, and the date columns of the extract",
            )
        with lake.staged(run.folder / "score") as into:
            for chunk in chunks:
                _take(_folder(run, chunk) / _name(chunk), into / _name(chunk))
            listed = [asdict(chunk) | {"scored": counts[chunk]} for chunk in chunks]
            lake.write_manifest(into, {"run_id": run.run_id, "rows": sum(counts.values()), "chunks": listed})
    shutil.rmtree(run.folder / FINISHED, ignore_errors=True)
    return run


def score_shard(shard: Shard) -> list[int]:
    """Score a shard on one thread, as a worker elsewhere does; the rows scored of each chunk."""
    context = Context(shard.job, shard.settings, Quiet())
    with tree_threads(1):
        return list(_score_chunks(context, shard.run, shard.chunks))


def cut(chunks: Sequence[Chunk], seconds_a_row: float) -> list[tuple[Chunk, ...]]:
    """Consecutive chunks in shards of about equal rows: at most MOST_SHARDS, on average worth WORTH_SECONDS."""
    total = sum(chunk.rows for chunk in chunks)
    number = min(int(total * seconds_a_row / WORTH_SECONDS), MOST_SHARDS, len(chunks))
    if number < 2:
        return [tuple(chunks)] if chunks else []
    shards: list[list[Chunk]] = [[] for _ in range(number)]
    for chunk, end in zip(chunks, accumulate(chunk.rows for chunk in chunks), strict=True):
        middle = end - chunk.rows / 2
        shards[int(middle * number / total)].append(chunk)
    return [tuple(shard) for shard in shards if shard]


def _counts(context: Context, run: Run, chunks: Sequence[Chunk]) -> Iterator[int]:
    """Rows scored of each chunk as they come; the first is scored here and tells what the others will cost."""
    if not chunks:
        return
    here = _score_chunks(context, run, chunks)
    begun = time.perf_counter()
    yield next(here)
    shards = cut(chunks[1:], (time.perf_counter() - begun) / chunks[0].rows)
    if context.spread is None or len(shards) < 2:
        yield from here
        return
    settings = context.settings.model_copy(update={"warehouse": SecretStr(""), "lake": None})
    work = [Shard(context.job, settings, run, shard) for shard in shards]
    named = {f"shard {number} of {len(work)} {shard}": shard for number, shard in enumerate(work, 1)}

    def go_on(shard: Shard) -> list[int]:
        return list(islice(here, len(shard.chunks)))

    do: Callable[[Shard], list[int]] = go_on if context.spread.here else score_shard
    for counts in context.spread(do, named):
        yield from counts


def _score_chunks(context: Context, run: Run, chunks: Iterable[Chunk]) -> Iterator[int]:
    """Write the scores of each chunk to a folder of its own; rows scored, a chunk at a time."""
    adapted, card, level = load_adapted(context, run), load_card(context, run.model_id), load_level(run)
    schema = pl.DataFrame(schema=scoring.KEPT).to_arrow().schema
    for chunk, frames in population_chunks(context, run.checked, chunks):
        scored = scoring.score(
            frames,
            adapted,
            context.portfolio,
            run_id=run.run_id,
            as_of=context.job.as_of,
            level=level,
            reasons_from=card.reasons_from,
            known_range=card.known_range,
        )
        rows = 0
        with lake.staged(_folder(run, chunk)) as into:
            with pq.ParquetWriter(into / _name(chunk), schema) as file:
                for frame in scored:
                    file.write_table(frame.to_arrow())
                    rows += frame.height
            lake.write_manifest(into, _origin(run, chunk) | {"scored": rows})
        yield rows


def _count_of_before(run: Run, chunk: Chunk) -> int | None:
    """Rows that an earlier attempt scored of a chunk; None where its file is not whole or not of this very run."""
    folder = _folder(run, chunk)
    if finished(folder):
        made = lake.read_manifest(folder)
        count: int = made.pop("scored")
        if {name: value for name, value in made.items() if name != "files"} == _origin(run, chunk):
            return count
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _origin(run: Run, chunk: Chunk) -> dict[str, Any]:
    """What the bits of a chunk's scores follow from: the adaptation, whose manifest names extract, model and code."""
    adaptation = text_hash((run.folder / "adapt" / lake.MANIFEST).read_text(encoding="utf-8"))
    return {"run_id": run.run_id, "chunk": asdict(chunk), "adaptation": adaptation, "versions": versions()}


def _folder(run: Run, chunk: Chunk) -> Path:
    # Below a folder of its own: who makes a folder clears what the dead have left beside it.
    return run.folder / FINISHED / f"{chunk.number:05}" / "score"


def _name(chunk: Chunk) -> str:
    return f"part-{chunk.number:05}.parquet"


def _take(source: Path, target: Path) -> None:
    """A file in a second place, without a copy where the file system has hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _tell(context: Context, run: Run, counts: Mapping[Chunk, int]) -> None:
    if counts:
        done = sum(chunk.rows for chunk in counts)
        context.reporter.progress("score", done, run.extract.rows, f"{sum(counts.values()):,} rows scored")
