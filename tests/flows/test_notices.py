"""Notices on a real server: what goes wrong reaches a webhook and a mailbox, with all that one needs to act."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Scheduled

from flows import notices
from flows.nightly import night
from flows.reporter import PrefectReporter
from flows.server import free_port
from metarisk.steps.alerts import ALERT
from tests.flows.conftest import Prefect, until
from tests.flows.tiny import make_project, variables

pytestmark = pytest.mark.xdist_group("prefect")
PASSWORD = "planted-in-an-address"
DAY = date(2026, 6, 29)
SAID = {
    "late run": ("Portfolio: all of them", "no worker has started the run", "Remedy: start a worker of pool default"),
    "failed run": ("Portfolio: broken", f"Date: {DAY}", "no_such_table", "Remedy: ", "not-published.html"),
    "source late": ("Portfolio: late", f"Date: {DAY}", "the source was not ready", "Remedy: load the source"),
    "quality failure": ("Portfolio: strict", f"Date: {DAY}", "column amount", "critical rule", "Remedy: "),
    "drift alert": ("Portfolio: tiny", f"Date: {DAY}", "income moved", "Remedy: see the page", "drift-page.html"),
}


@contextmanager
def webhook(heard: list[str]) -> Iterator[str]:
    """A local HTTP server that keeps what is posted to it; yields its address as Apprise writes it."""

    class Sink(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.append(f"{posted['title']}\n{posted['message']}")
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Sink) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"json://ops:{PASSWORD}@127.0.0.1:{httpd.server_port}/hook"
        httpd.shutdown()


@contextmanager
def mailbox(heard: list[str]) -> Iterator[str]:
    """A local SMTP server that keeps what is sent to it; yields its address as Apprise writes it."""

    class Sink:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            mail = message_from_bytes(envelope.content, policy=policy.default)
            body = mail.get_body(("plain", "html"))
            assert body is not None
            heard.append(f"{mail['subject']}\n{body.get_content()}")
            return "250 OK"

    controller = Controller(Sink(), hostname="127.0.0.1", port=free_port(0))
    controller.start()
    try:
        yield f"mailto://localhost:{controller.port}?from=job@example.org&to=ops@example.org&mode=insecure&format=text"
    finally:
        controller.stop()


@pytest.fixture
def posted(prefect: Prefect, in_process: None, client: SyncPrefectClient) -> Iterator[dict[str, list[str]]]:
    """What came to the webhook and to the mailbox."""
    heard: dict[str, list[str]] = {"webhook": [], "mail": []}
    with webhook(heard["webhook"]) as hook, mailbox(heard["mail"]) as box:
        notices.set_up(f"json://127.0.0.1:1/nobody {box}")
        assert notices.set_up(f"{hook} {box}") == [notice.name for notice in notices.NOTICES]
        yield heard
        made = [automation for automation in client.read_automations() if automation.name.startswith("metarisk: ")]
        for automation in made:
            client.delete_automation(automation.id)
    assert len(made) == len(notices.NOTICES)
    assert PASSWORD.encode() not in b"".join(path.read_bytes() for path in prefect.home.rglob("*") if path.is_file())


# Apprise loads all of its services, one of which imports a module that Python will drop.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_whoever_is_to_know_is_told_everything(
    posted: dict[str, list[str]],
    prefect: Prefect,
    client: SyncPrefectClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = make_project(tmp_path / "project", DAY, ("late", "strict"), ("broken",))
    spoil(settings.project / "portfolios" / "late.toml", '"tiny.json"', '"tiny.json"\nready_sql = "SELECT 1 = 2"')
    spoil(settings.project / "portfolios" / "strict.toml", "tiny.json", "strict.json")
    rule = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "max_value": 0}}
    suite = {"name": "strict", "expectations": [rule | {"severity": "critical"}]}
    (settings.project / "expectations" / "strict.json").write_text(json.dumps(suite))
    for name, value in variables(settings).items():
        monkeypatch.setenv(name, value)
    deployment = client.read_deployment_by_name("nightly/nightly")
    due = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(minutes=5))
    waiting = client.create_flow_run_from_deployment(deployment.id, state=due)
    states = [night(portfolio, DAY, return_state=True) for portfolio in ("broken", "late", "strict")]
    assert [state.name for state in states] == ["Failed", "SourceLate", "QualityFailed"]
    told: Callable[[str, dict[str, Any]], None] = PrefectReporter("tiny", settings.data_dir).event
    page = settings.data_dir / "drift-page.html"
    told(
        ALERT,
        {"portfolio": "tiny", "as_of": str(DAY), "alerts": "income moved", "remedy": "see the page", "page": page},
    )
    until(lambda: all(len(heard) >= len(SAID) for heard in posted.values()), "all notices")
    client.delete_flow_run(waiting.id)
    for place, heard in posted.items():
        assert len(heard) == len(SAID), place
        for notice, words in SAID.items():
            (text,) = [one for one in heard if one.startswith(f"metarisk: {notice}")]
            link = prefect.api.removesuffix("/api") if notice != "drift alert" else "file://"
            missing = [word for word in (*words, "Cause: ", f"Link: {link}") if word not in text]
            assert missing == [], (place, text)


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
