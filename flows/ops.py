"""The part of `metarisk up | unstick | doctor` that talks to Prefect: `python -m flows.ops`.

`up` is the whole of Prefect on one machine; the others mend or look at a server that is there.
"""

import json
import os
import signal
import threading
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer
from prefect.client.orchestration import SyncPrefectClient

from flows import notices, server, upkeep
from metarisk.domain import ConfigError, Finding, MetariskError
from metarisk.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run Prefect for metarisk, and look after it.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of the server; 0: 4200, or a free one if that is taken.")] = 0,
) -> None:
    """Start server, a worker for each pool and the deployments. Ctrl-C stops all of it."""
    settings = Settings()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    typer.echo("Starting Prefect. The first start builds its database and takes about half a minute.")
    try:
        with server.everything(settings, port or server.free_port(), stop) as (api, workers):
            typer.echo(_welcome(api, settings))
            while not stop.wait(1.0):
                for worker in workers:
                    worker.check()
            typer.echo("Stopping: workers first, then the server.")
    except server.Stopped:
        typer.echo("Asked to stop while starting.")
    typer.echo("Everything has stopped. `metarisk up` goes on where it left off.")


def _welcome(api: str, settings: Settings) -> str:
    with SyncPrefectClient(api) as client:
        soonest = sorted(upkeep.next_runs(client).items(), key=lambda item: item[1])
    lines = [
        ("Open", f"{api.removesuffix('/api')}  (runs, schedules, reports)"),
        *(("Next", f"{name}, {when:%A %Y-%m-%d %H:%M} UTC") for name, when in soonest),
        ("Run now", "in the UI: Deployments, nightly, Run; or in another terminal:"),
        ("", f"PREFECT_API_URL={api} prefect deployment run nightly/nightly"),
        ("Look", "metarisk doctor"),
        ("Logs", str(server.prefect_home(settings))),
        ("Stop", "Ctrl-C"),
    ]
    return "\n".join(f"{word:<9}{text}" for word, text in lines)


@app.command()
def unstick(
    minutes: Annotated[int, typer.Option(help="Leave runs alone that changed or sent a heartbeat since.")] = 15,
    as_json: AsJson = False,
) -> None:
    """Schedule runs again that are stuck in Pending, and mark runs as crashed whose process is gone."""
    with SyncPrefectClient(_api()) as client:
        changed = upkeep.unstick(client, timedelta(minutes=minutes))
    rows = [{"run": run.name, "was": run.state_name, "is": state.name} for run, state in changed]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['run']}: was {row['was']}, is {row['is']}")
    typer.echo(f"{len(rows)} runs changed." if rows else f"No run is stuck for {minutes} minutes or more.")


@app.command("next")
def next_starts() -> None:
    """Print when each deployment starts next, as JSON: name to time."""
    with SyncPrefectClient(_api()) as client:
        soonest = upkeep.next_runs(client)
    typer.echo(json.dumps({name: f"{when:%Y-%m-%d %H:%M} UTC" for name, when in sorted(soonest.items())}))


@app.command()
def automate() -> None:
    """Create or update the automations: notices to METARISK_NOTIFY, and weeklies that no gpu worker starts."""
    done = server.automate(_api(), Settings())
    for line in done:
        typer.echo(line)
    if notices.NOTICES[0].name not in done:
        typer.echo(f"no notices: neither {notices.NOTIFY} nor the block metarisk-notify is set")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say whether pools have workers, deployments have future runs, and nothing is late or stuck; exit 1 if not."""
    try:
        with SyncPrefectClient(_api()) as client:
            found = upkeep.findings(client, tuple(server.POOLS), server.SCHEDULED)
    except MetariskError as error:
        found = [Finding("server", error.what, error.remedy)]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found]))
    for finding in () if as_json else found:
        typer.echo(f"{'ok  ' if finding.fine else 'BAD '} {finding.subject}: {finding.what}")
        if not finding.fine:
            typer.echo(f"     {finding.remedy}")
    raise typer.Exit(0 if all(finding.fine for finding in found) else 1)


def _api() -> str:
    """The API of PREFECT_API_URL, else of the server that `up` runs for this data folder."""
    note = server.prefect_home(Settings()) / "address"
    address = os.environ.get("PREFECT_API_URL") or (note.read_text() if note.exists() else None)
    if address is None or not server.healthy(address):
        what = f"no Prefect server answers at {address}" if address else "no Prefect server is known"
        raise ConfigError(what, remedy="start one with `metarisk up`, or set PREFECT_API_URL")
    return address


def main() -> None:
    """Run the command line; an expected error is one line, not a traceback."""
    try:
        app()
    except MetariskError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
