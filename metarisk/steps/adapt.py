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
from metarisk.domain import ModelError, SegmentKey, segment_name
from metarisk.domain.hashing import identity
from metarisk.job.champion import champion_for, load_card, load_model
from metarisk.job.context import Context
from metarisk.job.further import ALSO, read_further
from metarisk.job.identity import code_version, configuration
from metarisk.job.inputs import INPUTS, inputs_of, require_fit
from metarisk.job.run import (
    AROUND,
    DRIFTING,
    EXCLUDED,
    LEVEL,
    RECENCY,
    Checked,
    Run,
    adapted_to,
    finished,
    run_folder,
    support,
)
from metarisk.record.drift import drifting_segments
from metarisk.record.publications import first_published, published_between
from metarisk.record.scores import last_adaptations
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
    drifting = drifting_segments(context.warehouse, context.job.portfolio, context.job.as_of)
    if drifting:
        parts[DRIFTING] = json.dumps(drifting)
    if context.portfolio.source.also:
        parts[ALSO] = json.dumps(read_further(context), sort_keys=True)
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
    weighted = cells(drifting, segment_keys(rows, context.portfolio)[0])
    recency = learn_recency(model, rows, weighted, context.portfolio, context.spec) if weighted else Recency()
    before = last_adaptations(context.warehouse, context.job.portfolio, context.job.as_of, known)
    adapted = adapted_to(context, run, run.model_id, rows, recency).carried(before)
    level = adapted_level(adapted, rows, context.portfolio, load_card(context, run.model_id).level)
    files = adapted.to_files() | {LEVEL: json.dumps(asdict(level), sort_keys=True).encode()}
    files |= {RECENCY: recency.to_bytes()} if recency.segments else {}
    for name, content in files.items():
        (into / name).write_bytes(content)


def _published_around(context: Context, run_id: str) -> tuple[str, bool]:
    """When publications of earlier nights changed last, empty for never, and whether the run was published itself."""
    _, last = published_between(context.warehouse, context.job.portfolio, context.job.as_of)
    return "" if last is None else instant(last), first_published(context.warehouse, run_id) is not None


def _excluded(checked: Checked) -> str | None:
    path = checked.quality.excluded
    return None if path is None else path.relative_to(checked.extract.directory.parent).as_posix()


def cells(names: Sequence[str], known: Sequence[SegmentKey]) -> list[SegmentKey]:
    """The cells that names mean: themselves, or all that have a value of that name."""
    wanted = set(names)
    return [key for key in known if segment_name(key) in wanted or wanted & {segment_name((value,)) for value in key}]
