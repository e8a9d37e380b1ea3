"""The steps of a night: plain functions that take references to Parquet and give references back.

`ready -> extract -> check -> adapt -> score -> guard -> derive -> drift -> publish -> report`, composed by the package.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from statistics import median

import polars as pl

from metarisk import lake, quality
from metarisk.adapt import Adapted, Recency, learn_recency
from metarisk.adapt import adapt as adapt_segments
from metarisk.adapt import level as adapted_level
from metarisk.calibration import Calibration
from metarisk.domain import ConfigError, DataError, ModelError, QualityError, Scalar, SegmentKey, SourceLate
from metarisk.pipeline import remedying
from metarisk.pipeline.context import Context
from metarisk.pipeline.dating import require_one_day, until
from metarisk.pipeline.identity import code_version, configuration, identity, text_hash
from metarisk.pipeline.inputs import INPUTS, inputs_of, misfits, require_fit
from metarisk.pipeline.models import champion_for, load_card, load_model
from metarisk.pipeline.sealing import instant
from metarisk.pipeline.sides import ALSO, extract_sides
from metarisk.portfolios import dropped_rows, extract_sql, suite_path
from metarisk.tasks import newest, observed, population, segment_keys

READY_POLL_SECONDS = 30.0
LEVEL = "level.json"
DRIFTING = "drifting"
"""In the manifest of an adaptation: names of segments that drifted, as JSON; not there where none did."""
AROUND = "published_around"
"""In the manifest of an adaptation: when an earlier night was published or taken back last.

What an attempt that died left is no start for the next one where that is another time now: it rests on what stood then.
"""
EXCLUDED = "excluded"
"""In the manifest of an adaptation: the file of rows set aside, below the extract's folder, or null."""


@dataclass(frozen=True)
class Checked:
    """An extract with what its suite said; `excluded` holds keys of quarantined rows."""

    extract: lake.Extract
    quality: quality.Quality


@dataclass(frozen=True)
class Run:
    """One run's identity and where its files are."""

    run_id: str
    model_id: str
    recipe: str
    cut_off: date
    """Label cut-off of the model."""
    folder: Path
    checked: Checked
    config_hash: str
    code_version: str

    @property
    def extract(self) -> lake.Extract:
        """The run's extract."""
        return self.checked.extract


def ready(context: Context) -> None:
    """Ask the portfolio's readiness query until it says yes; SourceLate after its deadline."""
    source, as_of = context.portfolio.source, context.job.as_of
    if source.ready_sql is None:
        return
    deadline = time.monotonic() + 60 * source.deadline_minutes
    told = False
    while True:
        rows = context.warehouse.rows(source.ready_sql, {"as_of": as_of})
        if rows and all(rows[0].values()):
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise SourceLate(
                f"the source was not ready within {source.deadline_minutes} minutes; nothing was published",
                portfolio=context.job.portfolio,
                on=as_of,
                remedy="load the source, then run this night again; ready_sql in the TOML says what is asked",
            )
        if not told:
            told, minutes = True, source.deadline_minutes
            waits = f"asking until {until(context, minutes)}, {minutes} minutes"
            context.reporter.warn(f"{context.job.portfolio}: the source is not ready for {as_of}, {waits}")
        time.sleep(min(READY_POLL_SECONDS, left))


def extract(context: Context) -> lake.Extract:
    """Stream the portfolio's SELECT into the lake."""
    return extract_into(context, context.settings.data_dir / "lake")


def extract_into(context: Context, root: Path) -> lake.Extract:
    """Stream the portfolio's SELECT into a lake."""
    sql = extract_sql(context.settings.project, context.portfolio)
    ranges = lake.key_ranges(context.portfolio, root)
    try:
        with context.warehouse.streams(sql, {"as_of": context.job.as_of}, ranges) as readers:
            require_one_day(context, readers[0].schema)
            return lake.extract(
                readers,
                context.portfolio,
                context.job.as_of,
                root,
                text_hash(sql),
                memory_mb=context.settings.memory_mb,
                threads=context.settings.threads,
                progress=lambda done, total, note: context.reporter.progress("extract", done, total, note),
            )
    except (ConfigError, DataError) as error:
        if error.portfolio is not None:
            raise
        # Of the warehouse, which does not know whose SQL it ran, and quotes the value that it refuses.
        hidden = isinstance(error, DataError) and context.portfolio.columns.personal
        said = re.sub("['\"].*['\"]", "'***'", error.what) if hidden else error.what
        what = f"{context.portfolio.source.extract}: {said}"
        raise type(error)(what, remedy=error.remedy, portfolio=context.job.portfolio, on=context.job.as_of) from None


def check(context: Context, extracted: lake.Extract) -> Checked:
    """Run the extract's suite and the rules that need history: enough rows, segments that are still the same.

    A critical failure raises QualityError: nothing is published.
    """
    lake.verify(extracted.directory)
    _enough_rows(context, extracted)
    require_rows(context, extracted.rows)
    found = judge_extract(context, extracted, extracted.directory.parent / "quarantine", _known_segments(context))
    context.reporter.table("quality", f"Quality of {context.job.portfolio} {context.job.as_of}", found.table())
    for warning in (*extracted.warnings, *found.warnings):
        context.reporter.warn(f"{context.job.portfolio} {context.job.as_of}: {warning}")
    require(found)
    return Checked(extracted, found)


def require_rows(context: Context, extracted: int) -> None:
    """Refuse an extract whose joins drop rows: of those that it does not have no rule can say anything."""
    sql = extract_sql(context.settings.project, context.portfolio)
    dropped_rows(sql, context.portfolio, context.warehouse, context.job.as_of, extracted)


def judge_extract(
    context: Context, extracted: lake.Extract, quarantine: Path, known_segments: Sequence[SegmentKey] | None
) -> quality.Quality:
    """What the suite and the rules of every book say of an extract; failing rows go to `quarantine`."""
    return quality.check(
        suite_path(context.settings.project, context.portfolio),
        extracted.paths,
        portfolio=context.portfolio,
        as_of=context.job.as_of,
        quarantine=quarantine,
        known_segments=known_segments,
        missing=extracted.missing_segment,
        memory_mb=context.settings.memory_mb,
        threads=context.settings.threads,
    )


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


def adapted_to(context: Context, run: Run, model_id: str, known: pl.DataFrame, recency: Recency) -> Adapted:
    """A model adapted to the support of a night, `known`; where it borrows, also to segments without labels."""
    model = load_model(context, model_id)
    unlabelled = strangers(context, run.checked, known) if model.borrows else None
    return adapt_segments(
        model, model_id, known, context.portfolio, context.spec, population=unlabelled, recency=recency
    )


def run_folder(context: Context, run_id: str) -> Path:
    """Where the files of a run of this night are."""
    return context.folder / "runs" / run_id


def support(context: Context, run: Run) -> pl.DataFrame:
    """Rows at risk with what was known of them at as_of, the newest of every segment, without quarantined ones."""
    limits = context.portfolio.thresholds
    rows = observed(scan(context, run.checked), context.portfolio, context.spec, context.job.as_of)
    return newest(rows, context.portfolio, per_segment=limits.max_support_rows, total=limits.max_training_rows)


def strangers(context: Context, checked: Checked, known: pl.DataFrame) -> pl.DataFrame:
    """Rows to be scored of segments without any row in `known`, the newest up to the portfolio's maximum."""
    segments, limits = list(context.portfolio.columns.segments), context.portfolio.thresholds
    rows = population(scan(context, checked), context.portfolio, context.job.as_of)
    alone = rows.join(known.lazy().select(segments).unique(), on=segments, how="anti", maintain_order="left")
    return newest(alone, context.portfolio, per_segment=limits.max_support_rows, total=limits.max_training_rows)


def scan(context: Context, checked: Checked) -> pl.LazyFrame:
    """All rows of an extract but the quarantined ones."""
    frame = pl.scan_parquet(checked.extract.paths)
    excluded = checked.quality.excluded
    if excluded is None:
        return frame
    keys = lake.key_columns(context.portfolio)
    unwanted = pl.read_parquet(excluded).select(keys).to_struct().implode()
    # No join: a streamed one holds rows of the extract.
    return frame.filter(~pl.struct(keys).is_in(unwanted))


def score_files(run: Run) -> list[Path]:
    """Parquet files of the run's scores."""
    return sorted((run.folder / "score").glob("*.parquet"))


def load_adapted(context: Context, run: Run) -> Adapted:
    """The run's model with its adaptation; both are hash-checked before use."""
    folder = run.folder / "adapt"
    files = {name: (folder / name).read_bytes() for name in lake.verify(folder)["files"]}
    return Adapted.from_files(load_model(context, run.model_id), files)


def load_recency(run: Run) -> Recency:
    """How the supports of the run's drifting segments were weighted."""
    file = run.folder / "adapt" / remedying.RECENCY
    return Recency.from_bytes(file.read_bytes()) if file.exists() else Recency()


def load_level(run: Run) -> Calibration:
    """The level of the run's scores."""
    lake.verify(run.folder / "adapt")
    return Calibration(**json.loads((run.folder / "adapt" / LEVEL).read_bytes()))


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


def finished(folder: Path) -> bool:
    """Whether an earlier attempt left this step's folder whole."""
    try:
        lake.verify(folder)
    except DataError:
        return False
    return True


def require(found: quality.Quality) -> None:
    """Stop at critical failures; the error carries every verdict, for the record of the failed attempt."""
    try:
        found.require()
    except QualityError as error:
        error.results = found.rows()
        raise


def _enough_rows(context: Context, extracted: lake.Extract) -> None:
    portfolio, as_of = context.portfolio, context.job.as_of
    share = portfolio.source.min_rows_vs_median
    nights = context.warehouse.rows(
        "SELECT rows_extracted FROM metarisk.night WHERE portfolio = $portfolio AND as_of < $as_of AND is_current "
        "ORDER BY as_of DESC LIMIT 14",
        {"portfolio": portfolio.name, "as_of": as_of},
    )
    usual = median([row["rows_extracted"] for row in nights]) if nights else 0
    if extracted.rows < share * usual:
        raise DataError(
            f"{extracted.rows:,} rows were extracted, less than {share:.0%} of the usual {usual:,.0f}",
            portfolio=portfolio.name,
            on=as_of,
            remedy="check that the source is complete; lower source.min_rows_vs_median if the book really shrank",
        )


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


def _known_segments(context: Context) -> tuple[SegmentKey, ...] | None:
    """Segments of the champion; None where there is none, or none that knows what the portfolio now declares."""
    champion = champion_for(context)
    if champion is None:
        return None
    try:
        return None if misfits(context, champion.model_id) else load_model(context, champion.model_id).segments
    except ModelError as error:
        # A week replaces it; a night ends at the adapt step.
        context.reporter.warn(str(error))
        return None
