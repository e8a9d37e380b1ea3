"""What commands print: progress, tables, results as text or JSON, and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from metarisk.domain import ConfigError, Job, MetariskError


class RichReporter:
    """A Reporter that draws a progress bar a step, and prints warnings and tables."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description:<9}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> RichReporter:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @contextmanager
    def step(self, job: Job, name: str) -> Iterator[None]:
        """One line with a bar; done when the step ends."""
        task = self._bars.add_task(name, total=None, note=f"{job.portfolio} {job.as_of}")
        self._tasks[name] = task
        try:
            yield
        except BaseException:
            self._bars.update(task, note="[red]failed[/]")
            self._bars.stop_task(task)
            raise
        self._bars.update(task, total=1, completed=1)
        self._bars.stop_task(task)

    def progress(self, name: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of a step."""
        if name in self._tasks:
            self._bars.update(self._tasks[name], completed=done, total=max(total, 1), note=escape(note))

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Print the evidence; other tables stand in the report."""
        if key.startswith("evidence") and rows:
            self._console.print(rich_table(title, rows))

    def link(self, key: str, title: str, target: Path) -> None:
        """Links are printed with the result."""

    def event(self, name: str, about: Mapping[str, str | Path]) -> None:
        """Nobody listens to a command."""

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._console.print(f"[yellow]warning[/] {escape(message)}")


def rich_table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    """Rows as a Rich table, columns from the first row."""
    table = Table(title=title, title_justify="left", show_edge=False)
    for name in rows[0]:
        table.add_column(str(name), justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    return table


@contextmanager
def errors(as_json: bool) -> Iterator[None]:
    """Errors of the job end the command with their text and exit code 1; anything else is a fault and is raised."""
    try:
        yield
    except MetariskError as error:
        if as_json:
            content = {"error": type(error).__name__, "what": str(error), "remedy": error.remedy, "page": error.page}
            typer.echo(json.dumps(content, default=str))
        else:
            console = Console(stderr=True)
            console.print(f"[bold red]{type(error).__name__}[/] {escape(str(error))}", soft_wrap=True)
            if error.page is not None:
                console.print(f"report {error.page}", soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(1) from None


def date_of(text: str, as_json: bool) -> date:
    with errors(as_json):
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise ConfigError(f"{text!r} is not a date", remedy="write it as YYYY-MM-DD") from None
    raise AssertionError


def plain(value: Any) -> dict[str, Any]:
    return asdict(value)


def readable(row: Mapping[str, Any]) -> dict[str, object]:
    marks = ("pruned", "retracted")
    shown = {name: "" if value is None else value for name, value in row.items() if name not in {"error", *marks}}
    outcome = ", ".join([row["outcome"], *(mark for mark in marks if row[mark])])
    return shown | {"started_at": str(row["started_at"])[:19], "outcome": outcome}


def say(content: Mapping[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(content, default=str))
    else:
        Console().print(escape(text), soft_wrap=True, highlight=False)


def hint(text: str, as_json: bool) -> None:
    """What to do next, where standard output holds names or paths that a script may read."""
    if not as_json:
        Console(stderr=True).print(text, soft_wrap=True, highlight=False, markup=False)
