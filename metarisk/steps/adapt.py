"""The step adapt: the champion meets the newest labels of every segment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from metarisk import lake
from metarisk.adapt import Recency, learn_recency
from metarisk.adapt import level as adapted_level
from metarisk.domain import ModelError, Scalar
from metarisk.domain.hashing import identity
from metarisk.job import remedy as remedying
from metarisk.job.champion import champion_for, load_card, load_model
from metarisk.job.context import Context
from metarisk.job.identity import code_version, configuration
from metarisk.job.inputs import INPUTS, inputs_of, require_fit
from metarisk.job.run import AROUND, DRIFTING, EXCLUDED, LEVEL, Checked, Run, adapted_to, finished, run_folder, support
from metarisk.job.sides import ALSO, extract_sides
from metarisk.record.seals import instant
from metarisk.tasks import segment_keys


def adapt(context: Context, checked: Checked) -> Run:
    """Take the newest champion that may be known at as_of and adapt it to every segment's support."""
    champion = champion_for(context)
    if champion is None:
        raise ModelError(
            f"no champion has a label cut-off on or before {context.job.as_of}",
            portfolio=context.job.portfolio,
            on=context.job.as_of,
            remedy=f"run `metarisk weekly --portfolio {context.job.portfolio} --as-of {context.job.as_of}` first",
        )
    require_fit(context, champion.model_id)
    parts = {
        "portfolio": context.job.portfolio,
        "as_of": str(context.job.as_of),
        "extract": checked.extract.extract_hash,
        "model": champion.model_id,
        "configuration": configuration(context),
        "code": code_version(),
    }
    drifting = remedying.drifting(context)
    if drifting:
        parts[DRIFTING] = json.dumps(drifting)
    if context.portfolio.source.also:
        parts[ALSO] = json.dumps(extract_sides(context), sort_keys=True)
    run_id = identity(parts)
    folder = run_folder(context, run_id)
    about = (run_id, champion.model_id, champion.recipe, champion.as_of)
    run = Run(*about, folder, checked, parts["configuration"], parts["code"])
    around, done = _published_around(context, run_id)
    if finished(folder / "adapt") and not done and lake.read_manifest(folder / "adapt").get(AROUND, around) != around:
        with lake.scratch(folder.parent) as bin_:
            folder.rename(bin_ / folder.name)
    if not finished(folder / "adapt"):
        lake.verify(checked.extract.directory)
        with lake.staged(folder / "adapt") as into:
            write_adaptation(context, run, into, drifting)
            beside = {EXCLUDED: _excluded(checked), AROUND: around, INPUTS: inputs_of(context.portfolio)}
            lake.write_manifest(into, parts | beside)
    return run


def write_adaptation(
    context: Context, run: Run, into: Path, drifting: Sequence[str], known: datetime | None = None
) -> None:
    """Adapt the run's model to its support, and write that and the level to a folder.

    Args:
        drifting: printable names of segments whose support may be weighted to recent rows.
        known: of a run that is done again, when it was published first: the night before is the one that stood then.
    """
    rows, model = support(context, run), load_model(context, run.model_id)
    cells = remedying.cells(drifting, segment_keys(rows, context.portfolio)[0])
    recency = learn_recency(model, rows, cells, context.portfolio, context.spec) if cells else Recency()
    adapted = adapted_to(context, run, run.model_id, rows, recency).carried(_last_night(context, known))
    level = adapted_level(adapted, rows, context.portfolio, load_card(context, run.model_id).level)
    files = adapted.to_files() | {LEVEL: json.dumps(asdict(level), sort_keys=True).encode()}
    files |= {remedying.RECENCY: recency.to_bytes()} if recency.segments else {}
    for name, content in files.items():
        (into / name).write_bytes(content)


def _published_around(context: Context, run_id: str) -> tuple[str, bool]:
    """When publications of earlier nights changed last, empty for never, and whether the run was published itself."""
    about: dict[str, Scalar] = {"portfolio": context.job.portfolio, "as_of": context.job.as_of, "run_id": run_id}
    (row,) = context.warehouse.rows(_AROUND, about)
    return "" if row["last"] is None else instant(row["last"]), row["own"] > 0


_AROUND = """
SELECT
    max(CASE WHEN as_of < $as_of THEN published_at END) AS last, count(CASE WHEN run_id = $run_id THEN 1 END) AS own
FROM metarisk.publication WHERE portfolio = $portfolio
"""


def _excluded(checked: Checked) -> str | None:
    path = checked.quality.excluded
    return None if path is None else path.relative_to(checked.extract.directory.parent).as_posix()


def _last_night(context: Context, known: datetime | None) -> dict[str, str]:
    """Adaptation id of every segment in the newest night before this one, of those that stand or stood at `known`."""
    about: dict[str, Scalar] = {"portfolio": context.job.portfolio, "as_of": context.job.as_of, "known": known}
    return {row["segment"]: row["adaptation_id"] for row in context.warehouse.rows(_LAST_ADAPTATIONS, about)}


_LAST_ADAPTATIONS = """
SELECT a.segment, a.adaptation_id
FROM metarisk.adaptation a
WHERE a.run_id = (
    SELECT p.run_id FROM metarisk.publication AS p
    JOIN (
        SELECT as_of, max(seq) AS seq FROM metarisk.publication
        WHERE portfolio = $portfolio AND as_of < $as_of AND ($known IS NULL OR published_at < $known)
        GROUP BY as_of
    ) AS newest ON newest.as_of = p.as_of AND newest.seq = p.seq
    WHERE p.portfolio = $portfolio AND p.run_id IS NOT NULL ORDER BY p.as_of DESC LIMIT 1
)
"""
