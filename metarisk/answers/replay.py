"""A past run done again from its manifest: bit for bit the same contents, or exactly what differs."""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import polars as pl

from metarisk import lake, scoring
from metarisk.job import archive, run
from metarisk.job.context import Context
from metarisk.job.further import ALSO
from metarisk.job.identity import code_version, configuration, versions
from metarisk.job.published import Night, night_of
from metarisk.record import publications, runs
from metarisk.record.scores import scores_of_run
from metarisk.steps.adapt import write_adaptation
from metarisk.steps.derive import DERIVED, SCORES, write_derived
from metarisk.steps.score import score


@dataclass(frozen=True)
class Reproduced:
    """What came of doing a run again."""

    run_id: str
    portfolio: str
    as_of: date
    rows: int
    identical: bool
    """Whether adaptation and scores have the very bits of then, in files of any name, and the warehouse the rows."""
    differences: tuple[str, ...]
    """What is not as it was, in words; empty where `identical`."""
    erased: int
    """Rows of its extract that were erased since: the adaptation is then that of its files, and nothing is derived."""
    changed: tuple[str, ...]
    """What stands around the run and is another than then: names of files and columns, code, TOML, packages."""


def reproduce(context: Context, run_id: str) -> Reproduced:
    """Adapt and score a published run again, from its extract and its model, beside what it left behind.

    Raises:
        ConfigError: there is no such run.
        DataError: its extract or its model is no longer whole.
    """
    night = night_of(context, run_id)
    then = json.loads(runs.manifest_of(context.warehouse, run_id))
    known = publications.first_published(context.warehouse, run_id) or context.clock()
    began = lake.read_manifest(night.run.folder / "adapt")
    drifting = json.loads(began.get(run.DRIFTING, "[]"))
    lines = lake.read_manifest(night.run.extract.directory).get(lake.ERASED, [])
    erased = sum(line["rows"] for line in lines)
    with lake.scratch(context.settings.data_dir / "lake" / night.context.job.portfolio) as private:
        again = replace(night.run, folder=private / "run")
        if erased:
            # Labels that are gone cannot be learned from again.
            shutil.copytree(night.run.folder / "adapt", again.folder / "adapt")
        else:
            with lake.staged(again.folder / "adapt") as into:
                write_adaptation(night.context, again, into, drifting, known)
                lake.write_manifest(into, {"run_id": run_id, ALSO: began.get(ALSO, "{}")})
        score(night.context, again)
        scores = pl.concat(pl.read_parquet(path, columns=[*scoring.SCHEMA]) for path in run.score_files(again))
        if night.context.spec.derive is not None and not erased:
            write_derived(night.context, again, again.folder / DERIVED, known)
            scores = pl.concat([scores, pl.read_parquet(again.folder / DERIVED / SCORES)])
        steps = ("adapt",) if erased else ("adapt", "score", DERIVED)
        compared = [
            lake.compare(night.run.folder / step, again.folder / step, then[step]) for step in steps if step in then
        ]
    differences = [line for step in compared for line in step.differences]
    unwritten = {name for step in compared for name in step.added}
    differences += _rows_differ(night, scores, {line["pseudonym"] for line in lines}, unwritten)
    differences += archive.folders_differ(night.context, night.run.extract.directory, night.run.folder / "score")
    changed = (*(line for step in compared for line in step.layout), *_around(night, then))
    return Reproduced(
        run_id,
        night.context.job.portfolio,
        night.as_of,
        scores.height,
        not differences,
        tuple(differences),
        erased,
        changed,
    )


def _rows_differ(
    night: Night, scores: pl.DataFrame, erased: Collection[str], unwritten: Collection[str]
) -> Iterator[str]:
    """Columns in which rows done again are not those of the warehouse, of which erased entities are left out.

    Where rows are erased, scores of derived targets are left out too. A column that the files of then had not is null.
    """
    rows = scores_of_run(night.context.warehouse, night.run.run_id, night.as_of)
    if rows.is_empty():
        yield "the warehouse has no score row of the run any more: see the archive"
        return
    published = rows.select(pl.col(name).cast(kind) for name, kind in scoring.SCHEMA.items())
    if erased:
        own = night.context.portfolio.target.name
        published = published.filter(~pl.col("entity").is_in([*erased]) & (pl.col("target") == own))
    gone = scores.join(published, on=["entity", "target"], how="anti").height
    added = published.join(scores, on=["entity", "target"], how="anti").height
    if gone or added:
        yield f"{gone} rows are gone from the warehouse, {added} are there that the run does not score"
    both = scores.join(published, on=["entity", "target"], suffix=" then")
    for name, kind in scoring.SCHEMA.items():
        if name in {"entity", "target"}:
            continue
        was = pl.col(f"{name} then")
        other = both.filter(was.is_not_null() if name in unwritten else pl.col(name).ne_missing(was))
        if other.height:
            apart = (other[name] - other[f"{name} then"]).abs().drop_nulls().to_list() if kind == pl.Float64 else []
            by = f", by up to {max(apart):.3g}" if apart else ""
            first = other.sort("entity")["entity"][0]
            yield f"{name} differs in {other.height} of {both.height} rows{by}, first of {first}"


def _around(night: Night, then: Mapping[str, Any]) -> Iterator[str]:
    retraction = publications.retracted_runs(night.context.warehouse).get(night.run.run_id)
    if retraction is not None:
        yield f"{publications.taken_back(retraction)}; no reader sees this run"
    if night.run.code_version != code_version():
        yield f"code was {night.run.code_version} and is {code_version()}"
    if night.run.config_hash != configuration(night.context):
        yield "the portfolio's TOML, SQL or suites are others than then"
    for package, now in versions().items():
        before = then.get("versions", {}).get(package)
        if before is not None and before != now:
            yield f"{package} was {before} and is {now}"
