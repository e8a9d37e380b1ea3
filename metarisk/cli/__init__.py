"""The command line: every command says what it did and what to do next; `--json` says it to machines.

What needs a Prefect server (`up`, `demo`) is started as `python -m flows.…`, so that everything else works without one.
The pipeline is imported by the commands that run it: it brings torch, and `load` or `runs` should answer at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from metarisk import __version__, demo, lake
from metarisk.cli.console import RichReporter, date_of, errors, hint, plain, readable, rich_table, say
from metarisk.domain import ConfigError, DataError, Job, Warehouse
from metarisk.portfolios import check_portfolio, draft_portfolio, list_portfolios, load_portfolio
from metarisk.risks import RISKS
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse

if TYPE_CHECKING:
    from metarisk.pipeline import Context, NightResult

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
portfolio_app = typer.Typer(no_args_is_help=True, help="Draft, check and list portfolios.")
app.add_typer(portfolio_app, name="portfolio")

Name = Annotated[str, typer.Option("--portfolio", "-p", help="Name of a file in portfolios/, without .toml.")]
AsOf = Annotated[str, typer.Option("--as-of", help="Local date up to whose end things are known: YYYY-MM-DD.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command()
def seed(
    scale: Annotated[float, typer.Option(help="Multiplies the rows of the demo's loan book.")] = 1.0,
    random_seed: Annotated[int, typer.Option("--seed", help="Another seed is another book.")] = 0,
    as_json: Json = False,
) -> None:
    """Generate the demo's loan book into schema `source`."""
    with errors(as_json):
        warehouse, settings = _warehouse()
        _migrate(warehouse, settings)
        rows = {name: warehouse.load(name, reader) for name, reader in demo.generate(scale, random_seed).items()}
        say(
            {"rows": rows, "as_of": str(demo.DEMO_AS_OF)},
            "\n".join(f"{count:>12,} rows in source.{name}" for name, count in rows.items())
            + f"\nNext: metarisk weekly --portfolio consumer_loans --as-of {demo.DEMO_AS_OF}",
            as_json,
        )


@app.command()
def load(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV.", exists=True, dir_okay=False)],
    table: Annotated[str, typer.Option(help="Table to create or replace: source.NAME.")],
    as_json: Json = False,
) -> None:
    """Load a file into schema `source`."""
    with errors(as_json):
        warehouse, _ = _warehouse()
        schema, _, name = table.rpartition(".")
        if schema != "source" or not name:
            raise ConfigError(f"{table} is not in schema source", remedy="name the table source.NAME")
        try:
            rows = warehouse.load(name, _read(file))
        except pa.ArrowException as error:
            raise DataError(f"{file.name} cannot be read: {error}", remedy="correct or convert the file") from None
        say(
            {"table": table, "rows": rows},
            f"{rows:,} rows in {table}\nNext: metarisk portfolio new NAME --table {table}",
            as_json,
        )


@app.command()
def weekly(portfolio: Name, as_of: AsOf, as_json: Json = False) -> None:
    """Judge the candidates, train the chosen one, and register it."""

    from metarisk import pipeline

    def work(context: Context) -> tuple[dict[str, Any], str]:
        result = pipeline.weekly(context)
        state = "champion" if result.promoted else "candidate"
        text = (
            f"model {result.model_id} ({result.recipe}) is {state}: {result.reason}\n"
            f"report {result.page}\nNext: metarisk nightly --portfolio {portfolio} --as-of {as_of}"
        )
        return plain(result), text

    _run(Job(portfolio, date_of(as_of, as_json)), work, as_json)


@app.command()
def evaluate(
    portfolio: Annotated[str, typer.Argument(help="Name of a file in portfolios/, without .toml.")],
    as_of: AsOf,
    rows: Annotated[
        Path | None, typer.Option(help="CSV or Parquet of id, role, draw, fold: judge on these rows.", exists=True)
    ] = None,
    protocol: Annotated[str, typer.Option(help="With --rows: as-known, or full-outcome.")] = "as-known",
    recipe: Annotated[list[str] | None, typer.Option(help="With --rows: only these recipes; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --rows: CSV of the probabilities.")] = None,
    as_json: Json = False,
) -> None:
    """Judge all candidates on the same rows; nothing is trained for the nights."""
    from metarisk import pipeline

    def walk_forward(context: Context) -> tuple[dict[str, Any], str]:
        judged = pipeline.evaluate(context)
        text = f"{judged.decision.reason}\nNext: metarisk weekly --portfolio {portfolio} --as-of {as_of}"
        return {"evidence": plain(judged.evidence), "decision": plain(judged.decision)}, text

    def on_rows(context: Context) -> tuple[dict[str, Any], str]:
        found = pipeline.study(context, Path(str(rows)), protocol, recipe or ())
        text = f"{found.evidence.rows:,} rows judged, {found.evidence.events:,} events"
        if out is not None:
            found.write(out, context.portfolio.columns.entity)
            text += f"\nprobabilities in {out}; column pd is {found.recipe}"
        return {"evidence": plain(found.evidence), "pd": found.recipe}, text

    _run(Job(portfolio, date_of(as_of, as_json)), walk_forward if rows is None else on_rows, as_json)


@app.command()
def nightly(
    portfolio: Name,
    as_of: AsOf,
    reason: Annotated[
        str, typer.Option("--restate", help="Publish a done night again from corrected inputs, for this reason.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Adapt, score, watch for drift, publish."""

    from metarisk import pipeline

    def work(context: Context) -> tuple[dict[str, Any], str]:
        result = pipeline.nightly(context)
        return plain(result), f"{_night_text(result)}\n{_after_night(result)}"

    day = date_of(as_of, as_json)
    _run(Job(portfolio, day, "restatement", reason) if reason else Job(portfolio, day), work, as_json)


@app.command()
def backfill(
    portfolio: Name,
    start: Annotated[str, typer.Option("--from", help="First night: YYYY-MM-DD.")],
    end: Annotated[str, typer.Option("--to", help="Last night: YYYY-MM-DD.")],
    as_json: Json = False,
) -> None:
    """Run past nights of the calendar, oldest first; done nights are skipped."""
    from metarisk import pipeline

    first = date_of(start, as_json)

    def work(context: Context) -> tuple[dict[str, Any], str]:
        results = pipeline.backfill(context, first)
        done = [result for result in results if result.outcome == "published"]
        text = "\n".join(_night_text(result) for result in results)
        return (
            {"nights": [plain(result) for result in results]},
            f"{text}\n{len(done)} of {len(results)} nights published now\nNext: metarisk runs --portfolio {portfolio}",
        )

    _run(Job(portfolio, date_of(end, as_json), "backfill"), work, as_json)


@app.command()
def approve(
    portfolio: Name,
    model: Annotated[str, typer.Option(help="Id of the waiting model: the week's report shows it.")],
    by: Annotated[str, typer.Option(help="Who approves.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: Json = False,
) -> None:
    """Make a candidate that waits for a person champion."""
    from metarisk import pipeline

    def work(context: Context) -> tuple[dict[str, Any], str]:
        recipe = pipeline.approve(context, model, by, reason)
        text = f"model {model} ({recipe}) is champion, approved by {by}\nNext: metarisk nightly scores by it"
        return {"model_id": model, "recipe": recipe, "by": by}, text

    _run(Job(portfolio, date.today()), work, as_json)  # noqa: DTZ011


@app.command()
def runs(
    portfolio: Annotated[str | None, typer.Option("--portfolio", "-p", help="Of one portfolio only.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many attempts to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the latest attempts, with how they ended."""
    with errors(as_json):
        warehouse, settings = _warehouse()
        _migrate(warehouse, settings)
        rows = warehouse.rows(
            "SELECT started_at, portfolio, as_of, mode, outcome, step, run_id, error FROM metarisk.run_attempt "
            "WHERE $portfolio IS NULL OR portfolio = $portfolio ORDER BY started_at DESC",
            {"portfolio": portfolio},
        )[:last]
        if as_json:
            say({"attempts": rows}, "", True)
        elif rows:
            console = Console()
            console.print(rich_table("Attempts, newest first", [readable(row) for row in rows]))
            for row in rows:
                if row["error"]:
                    console.print(escape(f"{row['as_of']} {row['step']}: {row['error']}"), soft_wrap=True)
            console.print(f"Next: metarisk report --portfolio {rows[0]['portfolio']} --as-of {rows[0]['as_of']}")
        else:
            Console().print("no attempt yet\nNext: metarisk weekly, then metarisk nightly")


@app.command()
def report(
    portfolio: Name,
    as_of: Annotated[str, typer.Option(help="A night; the newest if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Print the path of a night's report."""
    with errors(as_json):
        pages = list((_settings().data_dir / "reports" / portfolio).glob(f"{as_of or '2'}*.html"))
        if not pages:
            raise ConfigError(
                "there is no report",
                portfolio=portfolio,
                remedy="run `metarisk nightly` first; `metarisk runs` shows what ran",
            )
        # Of a restated night the page that was written last.
        newest = max(pages, key=lambda page: (page.name[:10], page.stat().st_mtime))
        say({"page": newest}, str(newest), as_json)
        hint("Next: open it in a browser", as_json)


@app.command()
def explain(
    portfolio: Name,
    entity: Annotated[str, typer.Option("--entity", help="Account, transaction or asset.")],
    as_of: Annotated[str, typer.Option("--as-of", help="A published night: YYYY-MM-DD; the newest if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Show one published score with all that made it: contributions, reasons, segment, support and model."""
    from metarisk.pipeline import Context, Quiet, explaining
    from metarisk.pipeline.explaining import Part

    with errors(as_json):
        settings, day = _settings(), date_of(as_of, as_json) if as_of else date.min
        if not as_of:
            day = explaining.last_night(Context(Job(portfolio, day), settings, Quiet()))
        found = explaining.explain(Context(Job(portfolio, day), settings, Quiet()), entity)
        if as_json:
            say(asdict(found), "", True)
            return
        console = Console()
        about, lineage = found.score, found.lineage
        facts = {
            "score": _with_interval(about),
            "grade, points": f"{about['grade'] or '-'}, {_points(about['points'])}",
            "expected loss": "-" if about["expected_loss"] is None else f"{about['expected_loss']:,.2f}",
            "by period": " ".join(f"{value:.3g}" for value in found.curve) or "-",
            "segment": f"{about['segment']}: {about['status']}, {lineage.get('reason') or 'no label of its own'}",
            "support": f"{lineage.get('support_rows', 0)} rows, {lineage.get('support_events') or 0} events, "
            f"hash {lineage.get('support_hash') or '-'}",
            "adaptation, model": f"{about['adaptation_id'] or '-'}, {lineage.get('model_id', '-')} "
            f"({lineage.get('recipe', '-')}, labels until {lineage.get('labels_until', '-')})",
            "run": about["run_id"],
        }
        console.print(f"[bold]{escape(entity)}[/] in {escape(portfolio)}, as of {about['as_of']}, {about['target']}")
        for name, value in facts.items():
            console.print(f"  {name:<18} {escape(str(value))}", soft_wrap=True, highlight=False)
        total = Part("", "score", sum(part.link for part in found.parts) + found.start.link, about["points"])
        told = {str(reason["code"]) for reason in found.reasons}
        rows = [
            {
                "": "reason" if part.code in told else "",
                "contribution": part.text,
                "link": f"{part.link:+.4f}",
                "points": _points(part.points),
            }
            for part in (found.start, *found.parts, total)
        ]
        console.print(rich_table("What adds up to the score", rows))


@app.command()
def up() -> None:
    """Start server, workers and deployments; Ctrl-C stops all of it."""
    # Takes this process's place: a parent that Ctrl-C reaches first would kill it before it has stopped its workers.
    os.execv(sys.executable, [sys.executable, "-m", "flows.ops", "up"])  # noqa: S606


@app.command("demo")
def run_demo() -> None:
    """Run the whole job once on generated data, through the flows."""
    raise typer.Exit(subprocess.call([sys.executable, "-m", "flows.demo"]))


@portfolio_app.command("list")
def portfolio_list(as_json: Json = False) -> None:
    """Names of the project's portfolios."""
    with errors(as_json):
        names = list_portfolios(_settings().project)
        say({"portfolios": names}, "\n".join(names) or "none yet", as_json)
        hint(f"Next: metarisk portfolio {f'check {names[0]}' if names else 'new'}", as_json)


@portfolio_app.command("check")
def portfolio_check(
    name: str, as_of: Annotated[str, typer.Option(help="Date to probe; today if left out.")] = "", as_json: Json = False
) -> None:
    """Validate a portfolio against the live warehouse."""
    day = date_of(as_of, as_json) if as_of else date.today()  # noqa: DTZ011
    with errors(as_json):
        warehouse, settings = _warehouse()
        portfolio = load_portfolio(settings.project, name, risks=RISKS)
        findings = check_portfolio(portfolio, settings.project, warehouse, day, check_schema=lake.check_schema)
        wrong = [finding for finding in findings if not finding.ok]
        lines = [
            f"{'ok   ' if finding.ok else 'WRONG'} {finding.about}: {finding.what}"
            + (f". Remedy: {finding.remedy}" if finding.remedy else "")
            for finding in findings
        ]
        following = (
            "correct what is wrong, then check again" if wrong else f"metarisk weekly --portfolio {name} --as-of {day}"
        )
        say({"findings": [plain(f) for f in findings]}, "\n".join([*lines, f"Next: {following}"]), as_json)
        if wrong:
            raise typer.Exit(1)


@portfolio_app.command("new")
def portfolio_new(
    name: str,
    table: Annotated[str, typer.Option(help="A table of schema source: source.NAME.")],
    as_json: Json = False,
) -> None:
    """Write a first draft of TOML, SQL and suite from a table's columns."""
    with errors(as_json):
        warehouse, settings = _warehouse()
        draft = draft_portfolio(name, table, warehouse)
        existing = [str(path) for path in draft if (settings.project / path).exists()]
        if existing:
            raise ConfigError(f"{', '.join(existing)} exist already", portfolio=name, remedy="choose another name")
        for path, text in draft.items():
            target = settings.project / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        following = f"Next: edit portfolios/{name}.toml, then metarisk portfolio check {name}"
        lines = [*(f"wrote {path}" for path in draft), following]
        say({"written": [str(path) for path in draft]}, "\n".join(lines), as_json)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """metarisk: risk scoring that learns across many thin segments."""
    if version:
        Console().print(f"metarisk {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the `metarisk` script."""
    app()


def _run(job: Job, work: Callable[[Context], tuple[dict[str, Any], str]], as_json: bool) -> None:
    from metarisk.pipeline import Context, Quiet

    with errors(as_json):
        if as_json:
            content, text = work(Context(job, _settings(), Quiet()))
        else:
            with RichReporter(Console(stderr=True)) as reporter:
                content, text = work(Context(job, _settings(), reporter))
        say(content, text, as_json)


def _with_interval(about: Mapping[str, Any]) -> str:
    if about["score_low"] is None:
        return f"{about['score']:.6g}"
    return f"{about['score']:.6g}, 90 % interval {about['score_low']:.6g} to {about['score_high']:.6g}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.2f}"


def _settings() -> Settings:
    """The environment; ConfigError names the variable that is wrong, and never shows its value."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"METARISK_{first['loc'][0]}".upper()
        raise ConfigError(
            f"{variable} is wrong: {first['msg']}", remedy="correct that environment variable, or leave it out"
        ) from None


def _warehouse() -> tuple[Warehouse, Settings]:
    settings = _settings()
    url = settings.warehouse.get_secret_value()
    opened = open_warehouse(url, settings.data_dir, threads=settings.threads, memory_mb=settings.memory_mb)
    return opened, settings


def _migrate(warehouse: Warehouse, settings: Settings) -> None:
    warehouse.migrate(settings.project / "sql" / "migrations", settings.project / "sql" / "views")


def _read(file: Path) -> Any:
    if file.suffix == ".parquet":
        parquet = pq.ParquetFile(file)
        return _reader(parquet)
    if file.suffix == ".csv":
        return csv.open_csv(file)
    raise ConfigError(f"{file.name} is neither .parquet nor .csv", remedy="convert it to Parquet or CSV")


def _reader(parquet: pq.ParquetFile) -> Any:
    return pa.RecordBatchReader.from_batches(parquet.schema_arrow, parquet.iter_batches())


def _night_text(result: NightResult) -> str:
    if result.outcome == "already_published":
        return f"{result.portfolio} {result.as_of}: already published as run {result.run_id}; nothing was done"
    return (
        f"{result.portfolio} {result.as_of}: {result.rows_scored:,} rows published as run {result.run_id}\n"
        f"report {result.page}"
    )


def _after_night(result: NightResult) -> str:
    """What to do after a night."""
    if result.outcome == "already_published":
        return "Next: nothing; `--restate REASON` publishes it again from corrected inputs"
    return "Next: open the report; `metarisk up` runs nights by schedule"
