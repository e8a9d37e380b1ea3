"""The step train: the chosen recipe on everything known, and all that stands beside a model in the registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from metarisk import backtests, lake, registry, training
from metarisk.adapt import Adapted, adapt
from metarisk.adapt import level as adapted_level
from metarisk.features import KnownRange
from metarisk.job.champion import CARD, Card
from metarisk.job.context import Context
from metarisk.job.identity import code_version, configuration
from metarisk.job.inputs import INPUTS, TAUGHT, inputs_of, taught
from metarisk.job.outcomes import published_outcomes
from metarisk.job.population import LINK, SCORE, FrameFile, score_population
from metarisk.job.run import scan, unlabelled_rows
from metarisk.job.storage import registry_root
from metarisk.job.week import SEED, Judged, Trained
from metarisk.lake.columns import BATCH_ROWS
from metarisk.steps.comparing import compare_with_champion
from metarisk.steps.drift import reference
from metarisk.tasks import LABEL, teaching, tells


def train(context: Context, judged: Judged) -> Trained:
    """Train the chosen recipe on everything known by as_of and write it, with its drift reference, to the registry.

    Killed while it trains, it goes on from its last checkpoint; these go once the registry has the model. The rows that
    teach are held, those to be scored are not; a segment without labels borrows by as many of its rows as in a night.
    """
    portfolio, spec, as_of = context.portfolio, context.spec, context.job.as_of
    lake.verify(judged.checked.extract.directory)
    frame = scan(context, judged.checked)
    teach = training.teaching_rows(frame, portfolio, spec, as_of)
    recipe = judged.decision.recipe
    training.require_labels(training.teaching_of(recipe, teach, portfolio), portfolio, spec, as_of)
    work = judged.folder / "training"
    model = training.fit(
        recipe,
        teach,
        training.fit_bases([recipe], teach, portfolio, spec),
        portfolio,
        spec,
        seed=SEED,
        progress=lambda done, total, note: context.reporter.progress("train", done, total, note),
        work=work,
        warn=lambda message: context.reporter.warn(f"{portfolio.name} {as_of}: {message}"),
    )
    known = teaching(teach, hazard=model.recipe.hazard)
    unlabelled = unlabelled_rows(context, judged.checked, known) if model.borrows else None
    adapted = adapt(model, "", teach, portfolio, spec, population=unlabelled)
    level = adapted_level(adapted, teach, portfolio, judged.level.rule)
    with lake.scratch(judged.folder) as private:
        scored = score_population(context, judged.checked, adapted, level, private / "population.parquet")
        model_id, path = _save(context, judged, adapted, teach, scored)
        shutil.rmtree(work, ignore_errors=True)
        return Trained(
            judged,
            model_id,
            path,
            teach.height,
            int(tells(teach[LABEL].to_numpy(), spec).sum()),
            len(model.segments),
            compare_with_champion(context, adapted, teach, scored),
            backtests.grade_backtests(published_outcomes(context, frame), portfolio.scorecard),
            tuple(_fairness(context, judged, frame, scored)),
        )


def _save(
    context: Context, judged: Judged, adapted: Adapted, teach: pl.DataFrame, scored: FrameFile
) -> tuple[str, Path]:
    """Write a model to the registry with what nights compare with and read off its scored population."""
    portfolio = context.portfolio
    about = {
        "as_of": str(context.job.as_of),
        "recipe": judged.decision.recipe,
        "seed": SEED,
        "configuration": configuration(context),
        "code": code_version(),
        "extract": judged.checked.extract.extract_hash,
        TAUGHT: taught(teach, context),
        INPUTS: inputs_of(portfolio),
    }
    known = None
    if portfolio.population == "application":
        known = KnownRange.fit(teach, portfolio.features, portfolio.columns.opened_on)
    likeness = [asdict(place) for place in training.likeness(adapted)]
    files = adapted.model.to_files() | reference(context, adapted, teach, scored)
    files |= {
        "likeness.json": json.dumps(likeness, indent=1).encode(),
        CARD: Card(scored.cut(LINK, portfolio.reasons.share), judged.level.rule, known).to_bytes(),
    }
    return registry.save(registry_root(context), portfolio.name, files, about)


def _fairness(context: Context, judged: Judged, frame: pl.LazyFrame, scored: FrameFile) -> Iterator[dict[str, object]]:
    """Of each group of the protected columns: adverse impact among rows to be scored, calibration on judged rows."""
    columns, recipe = context.portfolio.columns, judged.decision.recipe
    if not columns.protected or context.spec.label != "event":
        return
    declined = pl.col(SCORE) >= scored.cut(SCORE, context.portfolio.scorecard.cut)
    forward = pl.read_parquet(judged.folder / "judged" / "judged.parquet")
    if not forward.is_empty():
        keys = [columns.entity, columns.opened_on]
        told = frame.select(*keys, *columns.protected).collect_batches(chunk_size=BATCH_ROWS, engine="streaming")
        groups = pl.concat(batch.join(forward, on=keys, how="semi") for batch in told)
        forward = forward.join(groups, on=keys, how="left", maintain_order="left")
    for column in columns.protected:
        found = backtests.adverse_impact(scored.frame.select(group=pl.col(column).cast(pl.String), declined=declined))
        if recipe in forward.columns:
            probability = 1 / (1 + np.exp(-forward[recipe].to_numpy()))
            groups_of = forward[column].cast(pl.String).to_list()
            found += backtests.calibration_by_group(groups_of, probability, forward[LABEL].to_numpy())
        about = {"protocol": "fairness", "candidate": recipe}
        yield from (about | line | {"slice": f"{column} = {line['slice']}"} for line in found)
