"""Commands on what models say: judge candidates, explain a score and why it moved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from metarisk.cli.console import errors, plain, rich_table, say
from metarisk.cli.running import YESTERDAY, AsOf, Json, Name, context_of, day_of, run
from metarisk.domain import ConfigError, Job

if TYPE_CHECKING:
    from metarisk.jobs import Context
    from metarisk.steps.attribute import Move


def evaluate(
    portfolio: Annotated[str, typer.Argument(help="Name of a file in portfolios/, without .toml.")],
    as_of: AsOf = YESTERDAY,
    rows: Annotated[
        Path | None, typer.Option(help="CSV or Parquet of id, role, draw, fold: judge on these rows.", exists=True)
    ] = None,
    protocol: Annotated[str, typer.Option(help="With --rows: as-known, full-outcome, or new-market.")] = "as-known",
    recipe: Annotated[list[str] | None, typer.Option(help="With --rows: only these recipes; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --rows: CSV of the probabilities.")] = None,
    as_json: Json = False,
) -> None:
    """Judge all candidates on the same rows; nothing is trained for the nights."""
    from metarisk import jobs

    day = day_of(as_of, portfolio, as_json)

    def walk_forward(context: Context) -> tuple[dict[str, Any], str]:
        judged = jobs.evaluate(context)
        text = f"{judged.decision.reason}\nNext: metarisk weekly --portfolio {portfolio} --as-of {day}"
        told = {"held_out": judged.held_out, "features": judged.features, "warnings": judged.warnings}
        return {"evidence": plain(judged.evidence), "decision": plain(judged.decision), **told}, text

    def on_rows(context: Context) -> tuple[dict[str, Any], str]:
        found = jobs.study(context, Path(str(rows)), protocol, recipe or ())
        text = f"{found.evidence.rows:,} rows judged, {found.evidence.events:,} events"
        if out is not None:
            found.write(out, context.portfolio.columns.entity)
            text += f"\nprobabilities in {out}; column pd is {found.recipe}"
        return {"evidence": plain(found.evidence), "pd": found.recipe}, text

    run(Job(portfolio, day), walk_forward if rows is None else on_rows, as_json)


def explain(
    portfolio: Name,
    entity: Annotated[str, typer.Option("--entity", help="Account, transaction or asset.")],
    as_of: Annotated[str, typer.Option("--as-of", help="A published night: YYYY-MM-DD; the newest if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Show one published score with all that made it: contributions, reasons, segment, support and model."""
    from metarisk.answers import explain as explaining
    from metarisk.answers.explain import Part

    with errors(as_json):
        day = day_of(as_of, portfolio, as_json) if as_of else explaining.last_night(context_of(portfolio))
        found = explaining.explain(context_of(portfolio, day), entity)
        if as_json:
            say(asdict(found), "", True)
            return
        console = Console()
        about, lineage = found.score, found.lineage
        facts = {
            "score": _with_interval(about),
            "grade, points": f"{about['grade'] or '-'}, {_points(about['points'])}",
            "expected loss": "-" if about["expected_loss"] is None else f"{about['expected_loss']:,.2f}",
            **{name: f"{value:.6g}" for name, value in found.milestones.items()},
            "by period": " ".join(f"{value:.3g}" for value in found.curve) or "-",
            "segment": f"{about['segment']}: {about['status']}, {lineage.get('reason') or 'no label of its own'}",
            "support": f"{lineage.get('support_rows', 0)} rows, {lineage.get('support_events') or 0} events, "
            f"opened {lineage['opened_from'] or '-'} to {lineage['opened_until'] or '-'}, "
            f"last event known {lineage['last_known'] or '-'}, hash {lineage.get('support_hash') or '-'}",
            "adaptation, model": f"{about['adaptation_id'] or '-'}, {lineage.get('model_id', '-')} "
            f"({lineage.get('recipe', '-')}, labels until {lineage.get('labels_until', '-')})",
            "run": about["run_id"],
        }
        console.print(f"[bold]{escape(entity)}[/] in {escape(portfolio)}, as of {about['as_of']}, {about['target']}")
        width = max(map(len, facts))
        for name, value in facts.items():
            console.print(f"  {name:<{width}} {escape(str(value))}", soft_wrap=True, highlight=False)
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


def _with_interval(about: Mapping[str, Any]) -> str:
    if about["score_low"] is None:
        return f"{about['score']:.6g}"
    return f"{about['score']:.6g}, 90 % interval {about['score_low']:.6g} to {about['score_high']:.6g}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.2f}"


_BAR = 28
"""Characters of a waterfall in the terminal."""


def why(
    portfolio: Name,
    start: Annotated[str, typer.Option("--from", help="The earlier published night: YYYY-MM-DD.")],
    end: Annotated[str, typer.Option("--to", help="The later one.")],
    segment: Annotated[str | None, typer.Option(help="One segment: its values joined by |.")] = None,
    entity: Annotated[str | None, typer.Option(help="One account, transaction or asset.")] = None,
    as_json: Json = False,
) -> None:
    """Split the change between two nights into book, data, adaptation, model and calibration; the parts sum exactly."""
    from metarisk.answers import why as answers

    with errors(as_json):
        if segment is not None and entity is not None:
            raise ConfigError("a segment and an entity were asked for", remedy="leave out --segment or --entity")
        first, last = (day_of(text, portfolio, as_json) for text in (start, end))
        context = context_of(portfolio, last)
        moves = answers.why(context, first, segment) if entity is None else answers.why_entity(context, first, entity)
        untold = answers.untold(context, first)
        about = {"portfolio": portfolio, "from": first, "to": last, "segment": segment, "entity": entity}
        if as_json:
            say(about | {"moves": [asdict(move) for move in moves], "untold": untold}, "", True)
            return
        console = Console()
        whose = entity or segment or "the whole portfolio"
        console.print(f"[bold]{escape(whose)}[/] in {escape(portfolio)}, from {first} to {last}", highlight=False)
        if entity is None:
            one = moves[0]
            counts = (
                f"{one.rows_before:,} rows, {one.rows_left:,} left, {one.rows_entered:,} came, {one.rows_after:,} now"
            )
            console.print(f"  {counts}", highlight=False)
        for move in moves:
            console.print(rich_table(move.measure.replace("_", " "), _waterfall(move)))
        if untold:
            console.print(f"What moved rows that stayed cannot be split: {escape('; '.join(untold))}", soft_wrap=True)


def _waterfall(move: Move) -> list[dict[str, object]]:
    """Lines of a table: the earlier value, each part with a bar where it lies, the later value."""
    ends = {"before": move.before, "after": move.after}
    size = max(abs(value) for value in ends.values() if value is not None)
    digits = max(0, 6 - math.ceil(math.log10(size))) if size else 1
    if move.before is None or move.after is None:
        return [{"": name, "value": "-" if value is None else f"{value:,.{digits}f}"} for name, value in ends.items()]
    parts = move.told
    places = list(accumulate((value for _, value in parts), initial=move.before))
    low, width = min(places), (max(places) - min(places)) or 1.0

    def bar(start: float, end: float, filled: str = "│") -> str:
        first, last = sorted(round((_BAR - 1) * (value - low) / width) for value in (start, end))
        return " " * first + filled * (last - first + 1)

    rows: list[dict[str, object]] = [
        {
            "": name,
            "value": f"{value:+,.{digits}f}" if value else "0",
            " ": bar(*at, "█" if value > 0 else "░") if value else "",
        }
        for (name, value), at in zip(parts, pairwise(places), strict=True)
    ]
    for name, value, place in (("before", places[0], 0), ("after", places[-1], len(parts) + 1)):
        rows.insert(place, {"": name, "value": f"{value:,.{digits}f}", " ": bar(value, value)})
    return rows
