"""What Prefect keeps, and what it must not: personal values nowhere, settings and addresses as blocks, encrypted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient

from flows import configuration, notices, server
from flows.blocks import Addresses
from flows.nightly import nightly
from flows.weekly import weekly
from metarisk.settings import Settings
from tests.flows.conftest import Prefect, kept
from tests.flows.tiny import make_project, variables

pytestmark = pytest.mark.xdist_group("prefect")
FIRST, SECOND, THIRD = date(2026, 6, 29), date(2026, 6, 30), date(2026, 7, 1)
DOMAIN = "@mail.example"
LAKE = "s3://keeper:planted-in-a-block@bucket/prefix"
ADDRESS = "json://ops:planted-in-notify@127.0.0.1:1/hook"


def test_a_personal_value_reaches_nothing_that_prefect_keeps(
    prefect: Prefect, in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_project(tmp_path / "project", THIRD, ("private",))
    toml = settings.project / "portfolios" / "private.toml"
    sql = settings.project / "sql" / "extracts" / "private.sql"
    suite = settings.project / "expectations" / "tiny.json"
    toml.write_text(toml.read_text().replace("[[targets]]", 'personal = ["email"]\n\n[[targets]]'))
    sql.write_text(sql.read_text().replace("SELECT loan_id,", f"SELECT loan_id, loan_id || '{DOMAIN}' AS email,"))
    for name, value in variables(settings).items():
        monkeypatch.setenv(name, value)
    rules = json.loads(suite.read_text())

    def judge(kind: str, severity: str, values: list[str]) -> None:
        rule = {"type": kind, "severity": severity, "kwargs": {"column": "email", "value_set": values}}
        also = rule | {"meta": {"quarantine": True}}
        suite.write_text(json.dumps(rules | {"expectations": [*rules["expectations"], also]}))

    judge("expect_column_values_to_not_be_in_set", "warning", [f"T{number:05}{DOMAIN}" for number in range(20)])
    assert weekly("private", FIRST, return_state=True).is_completed()
    assert nightly("private", FIRST, return_state=True).is_completed()
    judge("expect_column_values_to_be_in_set", "critical", ["nobody"])
    assert nightly("private", SECOND, return_state=True).is_failed()
    sql.write_text(sql.read_text().replace(f"loan_id || '{DOMAIN}'", f"CAST(loan_id || '{DOMAIN}' AS INTEGER)"))
    assert nightly("private", THIRD, return_state=True).is_failed()
    found = kept(prefect)
    said = ("private 2026-06-29: published", "column email", "private.sql: DuckDB refuses the data", "private-quality")
    assert [word for word in said if word not in found] == []
    assert DOMAIN not in found


@pytest.fixture
def blocks(in_process: None) -> Iterator[None]:
    """The server keeps a copy of the lake and an address for notices, while the test runs."""
    for name, value in (("metarisk-lake", LAKE), ("metarisk-notify", ADDRESS)):
        Secret(value=value).save(name)
    yield
    for name in ("metarisk-lake", "metarisk-notify"):
        Secret.delete(name)


def test_blocks_of_the_server_are_settings_and_the_environment_wins(
    prefect: Prefect, blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("METARISK_LAKE", "METARISK_NOTIFY"):
        monkeypatch.delenv(name, raising=False)
    found = configuration.settings().lake
    assert found is not None
    assert found.get_secret_value() == LAKE
    assert configuration.kept("notify") == ADDRESS
    monkeypatch.setenv("METARISK_LAKE", "s3://other/bucket")
    found = configuration.settings().lake
    assert found is not None
    assert found.get_secret_value() == "s3://other/bucket"
    assert "planted-in-a-block" not in kept(prefect)


# Apprise loads all of its services, one of which imports a module that Python will drop.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_the_block_for_notices_is_made_of_what_the_server_keeps(
    prefect: Prefect, client: SyncPrefectClient, blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METARISK_NOTIFY", raising=False)
    before = {automation.id for automation in client.read_automations()}
    try:
        done = server.automate(prefect.api, Settings(data=prefect.home.parent))
        assert done[1:] == [notice.name for notice in notices.NOTICES]
        made = Addresses.load(notices.BLOCK)
        assert made.url.get_secret_value() == ADDRESS
        assert "planted-in-notify" not in repr(made)
        assert "planted-in-notify" not in kept(prefect)
        # Addresses change: the block is the same, and holds the new ones.
        monkeypatch.setenv("METARISK_NOTIFY", "json://127.0.0.1:2/other")
        server.automate(prefect.api, Settings(data=prefect.home.parent))
        assert Addresses.load(notices.BLOCK).url.get_secret_value() == "json://127.0.0.1:2/other"
    finally:
        for automation in client.read_automations():
            if automation.id not in before:
                client.delete_automation(automation.id)  # and with it the block
