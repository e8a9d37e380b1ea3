"""Judging recipes on rows that a file names, for studies; nothing here can make a champion.

A file has a line for each row and role: `id` (the entity), `role` (fit, support, score), and where a study has several
of them `draw` and `fold`. Protocol `as-known`: the fold is the date (or month) up to which things are known; whatever
was known of any row by then teaches, and only the lines to be scored are read. Protocol `full-outcome`: the lines of
role fit and support teach with outcomes that were not known at the time, so that its tables compare learners and say
nothing about what a night would have reached. Protocol `new-market`: the same, but models are trained on role fit
alone and only adapted to role support.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import polars as pl

from metarisk import evidence as evidences
from metarisk import judging, training
from metarisk.adapt import BASELINES
from metarisk.domain import ConfigError, DataError
from metarisk.job.context import Caller, Context, direct
from metarisk.job.dates import require_portfolio
from metarisk.job.run import Checked, scan
from metarisk.job.week import SEED
from metarisk.jobs.attempting import Steps, alone
from metarisk.steps.check import check
from metarisk.steps.extract import extract
from metarisk.steps.judge import candidates
from metarisk.tasks import LABEL, OPPONENT, labelled

Protocol = Literal["as-known", "full-outcome", "new-market"]
NOTES: Mapping[Protocol, str] = {
    "as-known": "labels as they were known at each fold's date",
    "full-outcome": "RETROSPECTIVE: taught by outcomes that were not known at the time; no champion is chosen on it",
    "new-market": "RETROSPECTIVE: trained on other segments with full outcomes, adapted to these without training",
}


@dataclass(frozen=True)
class Study:
    """Judged rows with one column of logits a recipe, and their evidence table."""

    recipe: str
    """The one whose probabilities are the study's answer."""
    judged: pl.DataFrame
    evidence: evidences.Evidence

    def write(self, path: Path, entity: str) -> None:
        """CSV of id, draw, fold, pd (of the study's recipe) and one probability a recipe."""
        names = [line.name for line in self.evidence.candidates]
        chance = [(1 / (1 + (-pl.col(name)).exp())).alias(name) for name in (self.recipe, *names)]
        answer = self.judged.select(pl.col(entity).alias("id"), "draw", "fold", chance[0].alias("pd"), *chance[1:])
        answer.write_csv(path)


def study(context: Context, file: Path, protocol: str, recipes: Sequence[str] = (), call: Caller = direct) -> Study:
    """Judge recipes on the rows of a file under a protocol, see NOTES. Raises ConfigError for one that there is not."""
    require_portfolio(context)
    known = protocol_of(protocol)
    run = Steps(call, context)
    with alone(context, "week", run):
        return run(judge_file, run(check, run(extract)), file, known, recipes)


def judge_file(
    context: Context, checked: Checked, file: Path, protocol: Protocol, recipes: Sequence[str] = ()
) -> Study:
    """Fit and judge recipes (all that compete, if none is named) on the rows of a file."""
    portfolio, spec, entity = context.portfolio, context.spec, context.portfolio.columns.entity
    names = list(recipes) or candidates(context, None)
    if protocol != "as-known":
        # All is known of every row that teaches: there is nothing that only a hazard could read.
        names = [name for name in names if not training.recipe_of(name, portfolio).hazard]
    if not names:
        raise ConfigError(
            "no recipe is left that learns from full outcomes", portfolio=portfolio.name, remedy="name one by --recipe"
        )
    frame = scan(context, checked).collect()
    if frame[entity].n_unique() < frame.height:
        raise DataError(
            "a study needs one row an entity", portfolio=portfolio.name, column=entity, on=context.job.as_of,
            remedy="extract one row an entity",
        )  # fmt: skip
    lines = _read(file, frame, entity, context)
    parts = lines.partition_by("draw", "fold", maintain_order=True)
    judged: list[pl.DataFrame] = []
    for number, part in enumerate(parts):
        draw, fold = part["draw"][0], part["fold"][0]
        context.reporter.progress("study", number, len(parts), f"draw {draw}, fold {fold}")
        rows = frame.join(part.filter(role="score").select(entity), on=entity, how="semi").sort(entity)
        others = frame.join(rows, on=entity, how="anti").lazy()
        if protocol == "as-known":
            teach = training.teaching_rows(others, portfolio, spec, _date(fold, context))
            known = labelled(rows.lazy(), portfolio, spec, context.job.as_of).collect()
            if known.height < rows.height:
                context.reporter.warn(
                    f"fold {fold}: {rows.height - known.height:,} of {rows.height:,} rows to be scored are left out: "
                    f"their outcome is not known by {context.job.as_of}"
                )
            support = None
        else:
            taught = part.filter(pl.col("role").is_in(["fit", "support"])).select(entity)
            teach = _ever(others.collect().join(taught, on=entity, how="semi").sort(entity), context)
            known, support = _ever(rows, context), teach
            if protocol == "new-market":
                teach = teach.join(part.filter(role="fit").select(entity), on=entity, how="semi")
        scores = judging.judge_rows(teach, known, portfolio, spec, names, seed=SEED, progress=_silent, support=support)
        found = judging.judged_rows(known, teach if support is None else support, portfolio, spec, fold, scores)
        # Folds that are dates follow each other; those of other protocols are segments of one time.
        earlier = [one.select(found.columns) for one in judged if protocol == "as-known" and one["fold"][0] < fold]
        chosen = judging.opponent(earlier, teach, portfolio, spec, names, seed=SEED)
        judged.append(found.with_columns(pl.lit(chosen).alias(OPPONENT), pl.lit(draw).alias("draw")))
    together = pl.concat(judged)
    if together.is_empty():
        raise DataError(
            f"no row of {file.name} can be judged",
            portfolio=portfolio.name,
            column="role",
            on=context.job.as_of,
            remedy="give lines of role score whose outcome is known, or a later as_of",
        )
    table = evidences.summarise(together, names, BASELINES, portfolio, spec, protocol=protocol)
    context.reporter.table("evidence", f"Evidence of {portfolio.name}, {NOTES[protocol]}", evidences.table(table))
    ours = [name for name in (spec.default, *names) if name in names and name not in BASELINES]
    return Study((ours or names)[0], together, table)


def protocol_of(name: str) -> Protocol:
    """A protocol by its name; ConfigError for another word."""
    for known in NOTES:
        if name == known:
            return known
    raise ConfigError(f"there is no protocol {name!r}", remedy=f"choose one of {', '.join(NOTES)}")


def _read(file: Path, frame: pl.DataFrame, entity: str, context: Context) -> pl.DataFrame:
    """The file's lines with the entity in its own column and type, draw and fold as text."""
    lines = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema_length=None)
    missing = {"id", "role"} - set(lines.columns)
    if missing:
        raise DataError(
            f"{file.name} lacks {', '.join(sorted(missing))}",
            portfolio=context.job.portfolio,
            remedy="give a line for each row with columns id, role, and where there are several draw and fold",
        )
    for name in ("draw", "fold"):
        if name not in lines.columns:
            lines = lines.with_columns(pl.lit("0").alias(name))
    lines = lines.select(
        pl.col("id").cast(frame.schema[entity]).alias(entity), pl.col("draw", "fold").cast(pl.String), "role"
    )
    unknown = lines.join(frame, on=entity, how="anti")
    if unknown.height:
        raise DataError(
            f"{unknown.height:,} lines of {file.name} name rows that the extract lacks, {unknown[entity][0]} for one",
            portfolio=context.job.portfolio,
            column=entity,
            on=context.job.as_of,
            remedy="name entities of the extract, or extract as of a later date",
        )
    return lines


def _date(fold: str, context: Context) -> date:
    try:
        return date.fromisoformat(f"{fold}-01" if len(fold) == len("2010-01") else fold)
    except ValueError:
        raise DataError(
            f"fold {fold!r} is no date",
            portfolio=context.job.portfolio,
            column="fold",
            remedy="write YYYY-MM-DD or YYYY-MM",
        ) from None


def _ever(rows: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Rows labelled by whether an event is known of them at all."""
    event = pl.col(str(context.portfolio.columns.event_date))
    return rows.with_columns(event.is_not_null().cast(pl.Float64).alias(LABEL))


def _silent(done: int, total: int, note: str) -> None:
    """Progress inside a fold, which is not shown."""
