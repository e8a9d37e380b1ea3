"""Every command as a caller sees it: what it prints as text and as JSON, and how it ends when something is wrong."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from metarisk import __version__
from metarisk.cli import app
from metarisk.domain import DEMO_AS_OF
from metarisk.settings import Settings
from metarisk.upkeep import doctor as health
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from tests.conftest import BOTH
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CUT_OFF, FIRST, SECOND, Project
from tests.warehouses import MIGRATIONS, ROOT

WEEKLY = ["weekly", "--portfolio", "tiny", "--as-of", str(CUT_OFF)]
NIGHTLY = ["nightly", "--portfolio", "tiny", "--as-of", str(FIRST)]
BACKFILL = ["backfill", "--portfolio", "tiny", "--from", str(FIRST), "--to", str(SECOND)]


@dataclass(frozen=True)
class Caller:
    """Runs commands on a project."""

    project: Project
    more: Mapping[str, str] | None = None

    def __call__(self, *arguments: str, ends: int = 0) -> Result:
        """Run one command in this process; it must end with the exit code `ends`, and without a traceback."""
        environment = {
            "METARISK_PROJECT": str(self.project.settings.project),
            "METARISK_WAREHOUSE": self.project.settings.warehouse.get_secret_value(),
            "METARISK_THREADS": "1",
            "METARISK_MEMORY_MB": "256",
            "COLUMNS": "200",
            **(self.more or {}),
        }
        result = CliRunner().invoke(app, arguments, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        assert result.exit_code == ends, result.output
        return result

    def json(self, *arguments: str, ends: int = 0) -> dict[str, Any]:
        """Run one command with --json: its standard output is one object."""
        content: dict[str, Any] = json.loads(self(*arguments, "--json", ends=ends).stdout)
        return content


def made(folder: Path) -> Caller:
    return Caller(tiny.make(folder / "project"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Caller, dict[str, str], dict[str, dict[str, Any]]]:
    """A project after a week and two nights, with what its commands said, as text and as JSON."""
    call = made(tmp_path_factory.mktemp("job"))
    text, data = {}, {}
    text["no runs"] = call("runs").stdout
    text["weekly"] = call(*WEEKLY).stdout
    data["weekly"] = call.json(*WEEKLY)
    text["nightly"] = call(*NIGHTLY).stdout
    data["nightly again"] = call.json(*NIGHTLY)
    text["nightly again"] = call(*NIGHTLY).stdout
    text["backfill"] = call(*BACKFILL).stdout
    data["backfill"] = call.json(*BACKFILL)
    call.project.load(tiny.book().with_columns(pl.col("amount").abs()))
    data["restated"] = call.json(*NIGHTLY, "--restate", "wrong signs")
    return call, text, data


Job = tuple[Caller, dict[str, str], dict[str, dict[str, Any]]]


def test_week(job: Job) -> None:
    _, text, data = job
    assert set(data["weekly"]) == {
        "portfolio", "as_of", "model_id", "recipe", "promoted", "reason", "page", "seconds",
    }  # fmt: skip
    assert (
        f"model {data['weekly']['model_id']} (hazard_head) is champion: hazard_head starts, as the default"
        in text["weekly"]
    )
    assert Path(data["weekly"]["page"]).exists()
    assert f"Next: metarisk nightly --portfolio tiny --as-of {CUT_OFF}" in text["weekly"]


def test_night(job: Job) -> None:
    _, text, data = job
    night = data["nightly again"]
    assert night["outcome"] == "already_published"
    assert f"{night['rows_scored']} rows published as run {night['run_id']}" in text["nightly"]
    assert f"report {night['page']}" in text["nightly"]
    assert f"already published as run {night['run_id']}; nothing was done" in text["nightly again"]
    assert "Next: open the report" in text["nightly"]
    assert "Next: nothing" in text["nightly again"]
    assert data["restated"]["outcome"] == "published"
    assert data["restated"]["rows_scored"] > night["rows_scored"]


def test_backfill(job: Job) -> None:
    _, text, data = job
    assert "1 of 2 nights published now\nNext: metarisk runs --portfolio tiny" in text["backfill"]
    nights = [(night["as_of"], night["outcome"]) for night in data["backfill"]["nights"]]
    assert nights == [(str(FIRST), "already_published"), (str(SECOND), "already_published")]
    assert data["backfill"]["weeks"] == []


def test_runs(job: Job) -> None:
    call, text, _ = job
    assert "no attempt yet" in text["no runs"]
    assert "Next: metarisk weekly" in text["no runs"]
    attempts = call.json("runs", "--last", "2")["attempts"]
    assert [(a["as_of"], a["mode"], a["outcome"]) for a in attempts] == [
        (str(FIRST), "restatement", "published"),
        (str(SECOND), "backfill", "published"),
    ]
    assert call.json("runs", "--portfolio", "another")["attempts"] == []
    shown = call("runs").stdout
    assert "Attempts, newest first" in shown
    assert f"Next: metarisk report --portfolio tiny --as-of {FIRST}" in shown
    assert shown.count("published") == 3


def test_report(job: Job) -> None:
    call, _, data = job
    newest = data["backfill"]["nights"][1]["page"]
    assert call("report", "--portfolio", "tiny").stdout.strip() == newest
    assert call.json("report", "--portfolio", "tiny", "--as-of", str(FIRST)) == {"page": data["restated"]["page"]}


def test_progress_goes_to_standard_error(tmp_path: Path) -> None:
    failing = made(tmp_path)(*NIGHTLY, ends=1)
    assert failing.stdout == ""
    assert "extract" in failing.stderr
    assert "failed" in failing.stderr
    assert f"as of {FIRST}: no champion has a label cut-off" in failing.stderr
    assert f"Remedy: run `metarisk weekly --portfolio tiny --as-of {FIRST}` first" in failing.stderr


def test_seed_writes_the_demo_book(tmp_path: Path) -> None:
    call = made(tmp_path)
    data = call.json("seed", "--scale", "0.02")
    assert data["as_of"] == str(DEMO_AS_OF)
    assert set(data["rows"]) == {"demo_loans", "demo_outcomes"}
    said = call("seed", "--scale", "0.02").stdout
    assert f"{data['rows']['demo_loans']:,} rows in source.demo_loans" in said
    assert f"Next: metarisk weekly --portfolio consumer_loans --as-of {DEMO_AS_OF}" in said


LOADING = (ROOT / "docs" / "loading.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", BOTH)
def test_the_page_on_loading_does_as_it_says(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files, its commands in order, and what it says that they answer."""
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql")
        call = Caller(tiny.make(tmp_path / "project"), {"METARISK_WAREHOUSE": server.url(server.create_database())})
    else:
        call = made(tmp_path)
    for name, content in re.findall(r"^`(\S+)`:\n```text\n(.*?)```", LOADING, flags=re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```console\n(.*?)```", LOADING, flags=re.DOTALL)
    steps = re.findall(r"^\$ metarisk (.*)\n((?:[^$].*\n)*)", block, flags=re.MULTILINE)
    assert len(steps) == 4
    for command, answers in steps:
        result = call(*shlex.split(command), ends=int("Error" in answers))
        said = " ".join((result.stdout + result.stderr).split())
        for answer in answers.splitlines():
            assert " ".join(answer.split()) in said
    assert (tmp_path / "refused.csv").read_text().splitlines()[1:] == [
        "june.csv,line 3,2 cells where the header has 3,010;x"
    ]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_load_then_draft_then_check(suffix: str, tmp_path: Path) -> None:
    call, file = made(tmp_path), tmp_path / f"loans.{suffix}"
    book = tiny.book().head(100)
    book.write_parquet(file) if suffix == "parquet" else book.write_csv(file)
    loaded = call.json("load", str(file), "--table", "source.mine")
    assert (loaded["table"], loaded["rows"], loaded["rejected"]) == ("source.mine", 100, 0)
    assert [column["name"] for column in loaded["columns"]] == book.columns
    assert "--replace to take its place" in call("load", str(file), "--table", "source.mine", ends=1).stderr
    assert call.json("load", str(file), "--table", "source.mine", "--append")["rows"] == 100
    assert call.project.warehouse.rows("SELECT count(*) AS n FROM source.mine") == [{"n": 200}]
    said = call("load", str(file), "--table", "source.mine", "--replace").stdout
    assert "100 rows in source.mine\nNext: metarisk portfolio new NAME --table source.mine" in said
    written = call.json("portfolio", "new", "mine", "--table", "source.mine")["written"]
    assert all((call.project.settings.project / path).is_file() for path in written)
    assert "portfolios/mine.toml" in written
    assert "Next: edit portfolios/other.toml, then metarisk portfolio check other" in call(
        "portfolio", "new", "other", "--table", "source.mine"
    ).stdout.replace("\n", " ")
    assert call.json("portfolio", "list") == {"portfolios": ["mine", "other", "tiny"]}
    listed = call("portfolio", "list")
    assert listed.stdout.split() == ["mine", "other", "tiny"]
    assert listed.stderr.strip() == "Next: metarisk portfolio check mine"


def test_check_of_a_portfolio(tmp_path: Path) -> None:
    call = made(tmp_path)
    check = ["portfolio", "check", "tiny", "--as-of", str(FIRST)]
    assert all(finding["ok"] for finding in call.json(*check)["findings"])
    assert f"Next: metarisk weekly --portfolio tiny --as-of {FIRST}" in call(*check).stdout
    call.project.edit("portfolios/tiny.toml", "reporting_lag_days = 30", "reporting_lag_days = 3")
    wrong = [finding for finding in call.json(*check, ends=1)["findings"] if not finding["ok"]]
    assert [finding["about"] for finding in wrong] == ["reporting lag"]
    said = call(*check, ends=1).stdout
    assert "WRONG reporting lag: " in said
    assert "Remedy: set `targets[0].reporting_lag_days` to 12 or more" in said
    assert "Next: correct what is wrong, then check again" in said


def test_version_and_help(tmp_path: Path) -> None:
    call = made(tmp_path)
    assert call("--version").stdout == f"metarisk {__version__}\n"
    said = call("--help").stdout
    for command in ("seed", "load", "weekly", "nightly", "backfill", "runs", "report", "portfolio", "up", "demo"):
        assert command in said


WRONG = {
    "date": (["weekly", "-p", "tiny", "--as-of", "tomorrow"], "'tomorrow' is not a date", "YYYY-MM-DD"),
    "portfolio": (
        ["nightly", "-p", "tinny", "--as-of", str(FIRST)],
        r"portfolios/tinny.toml does not exist (did you mean 'tiny'?)",
        "use one of tiny",
    ),
    "champion": (NIGHTLY, "portfolio tiny, as of 2026-06-29: no champion", "run `metarisk weekly"),
    "order": (
        ["backfill", "-p", "tiny", "--from", str(SECOND), "--to", str(FIRST)],
        "the backfill starts on 2026-06-30, after its end",
        "swap the dates",
    ),
    "schema": (["load", "FILE", "--table", "metarisk.run"], "metarisk.run is not in schema source", "source.NAME"),
    "kind": (["load", "FILE.doc", "--table", "source.x"], "book.doc is of no kind that is known", "use .csv"),
    "file": (["load", "FILE", "--table", "source.x"], "book.parquet cannot be read", "correct or convert the file"),
    "ragged": (["load", "FILE.csv", "--table", "source.x"], "line 3: 1 cell where the header has 2", "--rejects FILE"),
    "report": (["report", "-p", "tiny", "--as-of", "2020-01-01"], "there is no report", "run `metarisk nightly` first"),
    "drafted": (["portfolio", "new", "tiny", "--table", "source.tiny_loans"], "exist already", "choose another name"),
    "check": (["portfolio", "check", "nobody"], "portfolios/nobody.toml does not exist", "use one of tiny"),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Caller:
    """A project where nothing has run."""
    return made(tmp_path_factory.mktemp("bare"))


@pytest.mark.parametrize("name", WRONG)
def test_errors_end_with_1_and_a_remedy(name: str, bare: Caller, tmp_path: Path) -> None:
    arguments, what, remedy = WRONG[name]
    files = {"FILE": tmp_path / "book.parquet", "FILE.doc": tmp_path / "book.doc", "FILE.csv": tmp_path / "book.csv"}
    files["FILE"].write_bytes(b"PAR1 is not enough")
    files["FILE.doc"].touch()
    files["FILE.csv"].write_text("a,b\n1,2\n3\n")
    filled = [str(files.get(argument, argument)) for argument in arguments]
    error = bare.json(*filled, ends=1)
    assert set(error) == {"error", "what", "remedy", "page"}
    assert (error["page"] is not None) == (name == "champion")
    assert what in error["what"]
    assert remedy in error["remedy"]
    said = " ".join(bare(*filled, ends=1).stderr.split())
    assert error["error"] in said
    assert f"Remedy: {error['remedy']}" in said


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("METARISK_WAREHOUSE", "mysql://root:s3cret@host/db", "METARISK_WAREHOUSE has the scheme 'mysql'"),
        ("METARISK_THREADS", "many", "METARISK_THREADS is wrong"),
        ("METARISK_MEMORY_MB", "1", "METARISK_MEMORY_MB is wrong"),
    ],
)
@pytest.mark.parametrize("command", [["runs"], NIGHTLY, ["load", "FILE", "--table", "source.x"]], ids=lambda c: c[0])
def test_a_wrong_environment_is_an_error_like_any_other(
    command: list[str], variable: str, value: str, what: str, bare: Caller, tmp_path: Path
) -> None:
    file = tmp_path / "book.csv"
    file.write_text("a\n1\n")
    call = Caller(bare.project, {variable: value})
    error = call.json(*[str(file) if argument == "FILE" else argument for argument in command], ends=1)
    assert error["error"] == "ConfigError"
    assert what in error["what"]
    assert "s3cret" not in json.dumps(error)


def test_models_and_audit(job: Job) -> None:
    call, _, data = job
    champion = data["weekly"]["model_id"]
    listed = call.json("models", "list", "-p", "tiny")["models"]
    assert [(row["model_id"], row["state"]) for row in listed] == [(champion, "champion")]
    assert champion in call("models", "list", "-p", "tiny").stdout
    shown = call.json("models", "show", "-p", "tiny", "--model", champion)
    assert shown["states"][-1]["state"] == "champion"
    assert "hazard_head" in call("models", "show", "-p", "tiny", "--model", champion).stdout
    decision = ("-p", "tiny", "--by", "A. Validator", "--reason", "a test")
    assert "no champion before" in call("models", "rollback", *decision, ends=1).stderr
    assert "champion already" in call("models", "promote", "--model", champion, *decision, ends=1).stderr
    assert "does not wait" in call("models", "approve", "--model", champion, *decision, ends=1).stderr

    found = call.json("audit", "verify", "-p", "tiny", "--all")
    assert (found["faults"], found["unchained"]) == ([], 0)
    assert f"head {found['head']}" in call("audit", "verify", "-p", "tiny", "--head", found["head"]).stdout
    assert "BAD no event has the hash 0" in call("audit", "verify", "-p", "tiny", "--head", "0", ends=1).stdout


def test_doctor(job: Job, tmp_path: Path) -> None:
    call = job[0]
    # Its book has ended: the schedule would go on, and nobody ran the nights since.
    assert re.match(r"\d+ owed, 2026-07-01 to 20.*; night 2026-06-30, \d+ days old", _bad(call, "status of tiny"))
    call = Caller(tiny.copy(call.project, tmp_path / "ended"))
    call.project.edit("portfolios/tiny.toml", 'timezone = "UTC"', 'timezone = "UTC"\nscheduled = false')
    found = {line["subject"]: line for line in call.json("doctor")["findings"]}
    assert all(line["fine"] for line in found.values())
    assert "is whole" in found["champion of tiny"]["what"]
    assert "no schedule: no night is due; night 2026-06-30" in found["status of tiny"]["what"]
    assert "will be applied" not in found["warehouse duckdb"]["what"]
    assert "no server is known" in found["Prefect"]["what"]
    assert "are whole in the lake" in found["newest night of tiny"]["what"]
    assert "ok  disk: " in call("doctor").stdout

    sick = Caller(tiny.copy(call.project, tmp_path / "sick"))
    project, data = sick.project.settings.project, sick.project.settings.data_dir
    (project / "sql" / "extracts" / "tiny.sql").unlink()
    assert "tiny.sql" in _bad(sick, "portfolio tiny")
    shutil.copy(call.project.settings.project / "sql" / "extracts" / "tiny.sql", project / "sql" / "extracts")
    model = next((data / "registry" / "tiny").iterdir())
    (model / "encoder.json").write_text("{}")
    assert "encoder.json changed" in _bad(sick, "champion of tiny")
    shutil.copy(call.project.settings.data_dir / model.relative_to(data) / "encoder.json", model)
    night = data / "lake" / "tiny" / str(SECOND)
    kept = [file for file in [*night.glob("*/extract/*"), *night.glob("runs/*/*/*")] if file.name != "manifest.json"]
    assert {file.parent.name.split("-")[0] for file in kept} == {"extract", "adapt", "score", "drift", "moves"}
    for file in kept:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert f"{file} is damaged" in _bad(sick, "newest night of tiny")
        file.write_bytes(content)
    sick.project.edit("portfolios/tiny.toml", "[validation]", "[thresholds]\nmax_model_age_days = 1\n\n[validation]")
    assert "the model is 2 days old, more than max_model_age_days = 1" in _bad(sick, "status of tiny")
    (data / "warehouse.duckdb").write_bytes(b"not a database, and long enough to be looked at " * 100)
    assert _bad(sick, "warehouse duckdb")
    assert "BAD warehouse duckdb" in sick("doctor", ends=1).stdout


def test_status(job: Job, tmp_path: Path) -> None:
    call = job[0]
    (row,) = call.json("status", ends=1)["portfolios"]
    assert (row["portfolio"], row["status"], row["row"]["newest_night"]) == ("tiny", "red", str(SECOND))
    line = call("status", "-p", "tiny", ends=1).stdout
    assert line.startswith(f"red   tiny: night {SECOND}, ")
    for words in (" owed; last attempt night ", "published; model 2026-06-28, ", "0 alerts open; "):
        assert words in line
    assert len(line.splitlines()) == 1
    assert "did you mean 'tiny'" in call("status", "-p", "tinny", ends=1).stderr
    ended = Caller(tiny.copy(call.project, tmp_path / "ended"))
    toml = ended.project.settings.project / "portfolios" / "tiny.toml"
    ended.project.edit("portfolios/tiny.toml", 'timezone = "UTC"', 'timezone = "UTC"\nscheduled = false')
    told = ended("status")
    assert told.stdout.startswith("grey  tiny: ")
    assert "No Prefect server is known here" in told.stderr
    text = toml.read_text()
    toml.write_text("risk =")
    assert "is not TOML" in ended("status", ends=1).stdout
    toml.write_text(text.replace("scheduled = false", "scheduled = true"))
    ended("status", ends=1)
    toml.unlink()
    assert "portfolios/tiny.toml is gone" in ended("status", ends=1).stdout


SICK = {
    "disk": ("disk", "GiB free", "metarisk prune"),
    "newer schema": ("warehouse duckdb", "has migration 999, the code ", "run the version that made it"),
    "no file": ("warehouse duckdb", "does not exist yet", "load or seed"),
    "sqlalchemy 2.1.3": ("sqlalchemy 2.1.3", "no cron run is ever scheduled", "a version before 2.1"),
    "fastapi 0.151.0": ("fastapi 0.151.0", "the Prefect server does not start", "a version before 0.151"),
}


@pytest.mark.parametrize("sickness", SICK)
def test_the_doctor_has_a_remedy(
    sickness: str, embedded: DuckDBWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(project=tmp_path, data=tmp_path, memory_mb=128)
    shutil.copytree(MIGRATIONS, tmp_path / "sql" / "migrations")
    (tmp_path / "portfolios").mkdir()
    assert all(finding.fine for finding in health.examine(settings, FIRST))
    package, _, installed = sickness.partition(" ")
    real = health.version
    monkeypatch.setattr(health, "version", lambda name: installed if name == package else real(name))
    if sickness == "disk":
        monkeypatch.setattr(health.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 2**20))
    if sickness == "newer schema":
        with embedded.transaction() as transaction:
            transaction.execute(
                "INSERT INTO metarisk.schema_migration SELECT * REPLACE (999 AS version) "
                "FROM metarisk.schema_migration LIMIT 1"
            )
    if sickness == "no file":
        embedded.path.unlink()
    subject, what, remedy = SICK[sickness]
    (bad,) = [finding for finding in health.examine(settings, FIRST) if not finding.fine]
    assert bad.subject == subject
    assert what in bad.what
    assert remedy in bad.remedy


def test_the_doctor_counts_migrations_to_come(embedded: DuckDBWarehouse, tmp_path: Path) -> None:
    settings = Settings(project=tmp_path, data=tmp_path, memory_mb=128)
    shutil.copytree(MIGRATIONS, tmp_path / "sql" / "migrations")
    (tmp_path / "portfolios").mkdir()
    (tmp_path / "sql" / "migrations" / "998_next.sql").touch()
    (found,) = [one for one in health.examine(settings, FIRST) if one.subject == "warehouse duckdb"]
    assert "of 998, " in found.what
    assert found.fine


def _bad(call: Caller, subject: str) -> str:
    """What the doctor says of a subject, which must be bad and have a remedy."""
    (line,) = [one for one in call.json("doctor", ends=1)["findings"] if one["subject"] == subject]
    assert line["remedy"]
    return str(line["what"])


def test_prune(job: Job) -> None:
    call = job[0]
    would = call("prune", "--keep", "90d", "--dry-run").stdout
    assert "tiny: 0 runs (0 rows) to the archive" in would
    assert "Nothing was changed" in would
    (pruned,) = call.json("prune", "--keep", "90d")["pruned"]
    assert (pruned["runs"], pruned["freed"]) == ([], 0)
    assert "is no number of days" in call("prune", "--keep", "soon", ends=1).stderr


def test_replay(job: Job) -> None:
    call, _, data = job
    run = data["restated"]["run_id"]
    again = call.json("replay", run)
    assert (again["identical"], again["differences"]) == (True, [])
    assert f"{again['rows']:,} rows done again, bit for bit the same" in call("replay", run).stdout
    assert "there is no run nobody" in call("replay", "nobody", ends=1).stderr
