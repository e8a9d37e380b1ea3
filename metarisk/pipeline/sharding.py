"""The score step: an extract is cut into chunks, each with a file of scores of its own, and shards are lists of chunks.

Chunks follow from the extract alone, so who scores them, where and how many at a time changes no bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
from pydantic import SecretStr

from metarisk import lake, scoring
from metarisk.bases import tree_threads
from metarisk.domain import DataError, Job
from metarisk.pipeline.chunks import Chunk, chunks_of, population_chunks
from metarisk.pipeline.context import Context, Quiet
from metarisk.pipeline.models import load_card
from metarisk.pipeline.night import Run, finished, load_adapted, load_level
from metarisk.settings import Settings

WORTH_SECONDS = 3.0
"""Least work of a shard: handing one over costs about 0.15 s on Ray, of which this is twenty times as much."""
MOST_SHARDS = 64
"""More cost the task runner's server more than a longer tail would cost the night."""


@dataclass(frozen=True)
class Shard:
    """Chunks that one worker scores: references alone, neither rows nor a connection nor a password."""

    job: Job
    settings: Settings
    run: Run
    chunks: tuple[Chunk, ...]
    into: Path
    """Folder of the score files, which every worker has to see."""


def score(context: Context, run: Run) -> Run:
    """Score the population into `score/`, one file a chunk of the extract, in its order and in flat memory."""
    if finished(run.folder / "score"):
        return run
    lake.verify(run.extract.directory)
    chunks = chunks_of(run.extract)
    with lake.staged(run.folder / "score") as into:
        counts = []
        for chunk, scored in zip(chunks, _counts(context, run, chunks, into), strict=True):
            counts.append(scored)
            note = f"{sum(counts):,} rows scored"
            context.reporter.progress("score", chunk.before + chunk.rows, run.extract.rows, note)
        if not any(counts):
            raise DataError(
                f"none of {run.extract.rows:,} extracted rows is in the population to be scored",
                portfolio=context.job.portfolio,
                column=context.portfolio.columns.opened_on,
                on=context.job.as_of,
                remedy="check as_of, the horizon, and the date columns of the extract",
            )
        listed = [asdict(chunk) | {"scored": scored} for chunk, scored in zip(chunks, counts, strict=True)]
        lake.write_manifest(into, {"run_id": run.run_id, "rows": sum(counts), "chunks": listed})
    return run


def score_shard(shard: Shard) -> list[int]:
    """Score a shard on one thread, as a worker does; the rows scored of each chunk."""
    context = Context(shard.job, shard.settings, Quiet())
    with tree_threads(1):
        return list(_score_chunks(context, shard.run, shard.chunks, shard.into))


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


def _counts(context: Context, run: Run, chunks: Sequence[Chunk], into: Path) -> Iterator[int]:
    """Rows scored of each chunk as they come; the first is scored here and tells what the others will cost."""
    here = _score_chunks(context, run, chunks, into)
    begun = time.perf_counter()
    yield next(here)
    shards = cut(chunks[1:], (time.perf_counter() - begun) / chunks[0].rows)
    if context.spread is None or len(shards) < 2:
        yield from here
        return
    settings = context.settings.model_copy(update={"warehouse": SecretStr(""), "lake": None})
    work = [Shard(context.job, settings, run, shard, into) for shard in shards]
    for counts in context.spread(score_shard, work):
        yield from counts


def _score_chunks(context: Context, run: Run, chunks: Iterable[Chunk], into: Path) -> Iterator[int]:
    """Write the scores of each chunk to `part-<number>.parquet`; rows scored, a chunk at a time."""
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
        with pq.ParquetWriter(into / f"part-{chunk.number:05}.parquet", schema) as file:
            for frame in scored:
                file.write_table(frame.to_arrow())
                rows += frame.height
        yield rows
