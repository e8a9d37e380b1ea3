"""Weeks and nights of every risk with code version and clocks pinned, written down so that two trees can be compared.

`python -m tests.golden.house OUT.json [--only NAME ...] [--keep FOLDER]` runs one week and two nights of each line of
`CASES` on generated data and writes ids, seals and a hash of every table, view, page and answer to OUT.json; what was
hashed stands as text in the folder OUT. `--compare A.json B.json [--within 1e-12]` says what differs, and exits 1;
`--within` lets numbers be apart by so much, and then no hash counts. It finds what it needs by its name, so that it
runs on a tree whose modules stand elsewhere: `PYTHONPATH=TREE TREE/.venv/bin/python tests/golden/house.py OUT.json`.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib
import json
import math
import os
import pkgutil
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # several threads wait for each other on busy cores

VERSION = "golden"
UNTOLD = frozenset({"schema_migration", "view_set", "portfolio_status"})
"""When a schema was made and how things stand today are no behaviour of a night."""
OF_THE_TRY = frozenset({"attempt_id", "host", "pid"})
SHOWN = 6
"""Lines of one difference that are printed; the folders beside the files hold all of them."""
_HASH = re.compile(r"\b[0-9a-f]{12,64}\b")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """A demo portfolio, small: its candidates, the scale of its data, and changes to its TOML (old, new)."""

    portfolio: str
    candidates: tuple[str, ...]
    scale: float
    week: date
    nights: tuple[date, ...]
    edits: tuple[tuple[str, str], ...] = (("folds = 2", "folds = 1"),)
    server: bool = False
    """Whether its warehouse is PostgreSQL."""


SUNDAY, FRIDAY, MONDAY, TUESDAY = date(2025, 6, 29), date(2025, 6, 27), date(2025, 6, 30), date(2025, 7, 1)
ONE_FOLD = (("folds = 2", "folds = 1\nheld_out = false"),)
CREDIT = Case(
    "consumer_loans",
    ("pooled_logistic", "segment_logistic", "segment_rates", "pooled_lightgbm", "map_head", "hazard_head"),
    0.12,
    SUNDAY,
    (MONDAY, TUESDAY),
)
CASES: Mapping[str, Case] = {
    "credit": CREDIT,
    "credit_on_postgresql": replace(CREDIT, candidates=("pooled_logistic", "map_head"), edits=ONE_FOLD, server=True),
    "networks": replace(
        CREDIT, candidates=("map_network", "ridge_head", "anil", "reptile", "prototypical"), scale=0.06, edits=ONE_FOLD
    ),
    "market": Case(
        "market_vol", ("ewma", "har", "har_own", "relative", "episodic"), 0.2, FRIDAY, (MONDAY, TUESDAY), ONE_FOLD
    ),
    "fraud": Case(
        "card_fraud",
        ("pooled_logistic", "target_lightgbm", "isolation_forest", "map_head"),
        0.05,
        date(2025, 5, 31),
        (date(2025, 6, 4), date(2025, 6, 16)),
        (("budget = 12", "budget = 4"), *ONE_FOLD),
    ),
    "quant": Case(
        "signals_5d",
        ("pooled_logistic", "pooled_lightgbm", "decayed", "decayed_head"),
        0.2,
        FRIDAY,
        (MONDAY, TUESDAY),
        ONE_FOLD,
    ),
    "operational": Case(
        "operational_losses",
        ("segment_rates", "segment_head"),
        0.5,
        SUNDAY,
        (MONDAY, TUESDAY),
        (("folds = 4", "folds = 1\nheld_out = false"),),
    ),
    "liquidity": Case("liquidity_5d", ("ewma", "har_lightgbm", "relative"), 0.2, FRIDAY, (MONDAY, TUESDAY), ONE_FOLD),
}


class Tree:
    """The package that is tried, whose modules are all imported: what is wanted of it is found by its name."""

    def __init__(self) -> None:
        root = importlib.import_module("metarisk")
        self.folder = Path(str(root.__file__)).parents[1]
        names = [module.name for module in pkgutil.walk_packages(root.__path__, "metarisk.")]
        self.modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]

    def named(self, name: str) -> Any:
        """The one thing of that name in the package, whose commands bear names of what they call."""
        inner = [vars(module) for module in self.modules if not module.__name__.startswith("metarisk.cli")]
        found = {id(held[name]): held[name] for held in inner if name in held}
        if len(found) != 1:
            raise SystemExit(f"{len(found)} things are named {name} in {self.folder}: this script needs one")
        return next(iter(found.values()))

    def pin(self) -> None:
        """Make every module see one code version, and stop the clock of steps: pages show their seconds."""
        wanted = self.named("code_version")
        for module in self.modules:
            if vars(module).get("code_version") is wanted:
                vars(module)["code_version"] = lambda: VERSION
        time.perf_counter = lambda: 0.0


def run(tree: Tree, case: Case, project: Path, url: str) -> dict[str, dict[str, str]]:
    """One week and the nights of a case in a new project; by kind and name, the text of all that it left."""
    prepare(tree, case, project)
    settings = tree.named("Settings")(project=project, warehouse=url, threads=1, memory_mb=512)
    opened = tree.named("open_warehouse")(url, settings.data_dir, threads=1, memory_mb=512)
    for name, reader in tree.named("DEMOS")[case.portfolio].generate(case.scale, 0).items():
        opened.load(name, reader)

    def context(as_of: date) -> Any:
        after = datetime(as_of.year, as_of.month, as_of.day, 8, tzinfo=UTC) + timedelta(days=1)
        job = tree.named("Job")(case.portfolio, as_of)
        return tree.named("Context")(job, settings, tree.named("Quiet")(), clock=lambda: after)

    tree.named("weekly")(context(case.week))
    for night in case.nights:
        outcome = tree.named("nightly")(context(night)).outcome
        if outcome != "published":
            raise SystemExit(f"{case.portfolio} {night} is {outcome}")
    told = {
        "tables": dict(tables(opened)),
        "pages": dict(pages(settings.data_dir / "reports")),
        "answers": dict(answers(tree, case, project, url, opened)),
    }
    return {
        kind: {name: text.replace(str(project), "PROJECT") for name, text in of.items()} for kind, of in told.items()
    }


def prepare(tree: Tree, case: Case, project: Path) -> None:
    """Write the project folder of a case, with few candidates."""
    for name in ("expectations", "sql"):
        shutil.copytree(tree.folder / name, project / name)
    text = (tree.folder / "portfolios" / f"{case.portfolio}.toml").read_text("utf-8")
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("candidates ="))
    for old, new in case.edits:
        if old not in text:
            raise SystemExit(f"{case.portfolio}.toml has no {old!r}")
        text = text.replace(old, new)
    (project / "portfolios").mkdir()
    (project / "portfolios" / f"{case.portfolio}.toml").write_text(
        f"candidates = {json.dumps(case.candidates)}\n{text}"
    )


def tables(warehouse: Any) -> Iterator[tuple[str, str]]:
    """Every table and view of schema `metarisk` with its rows in order, a line of JSON each."""
    known = warehouse.rows(
        "SELECT CAST(table_name AS VARCHAR) AS name FROM information_schema.tables WHERE table_schema = 'metarisk'"
    )
    for name in sorted({row["name"] for row in known} - UNTOLD):
        if not re.search(r"_\d{4}_\d{2}$", name):  # a month of a partitioned table
            yield name, "\n".join(sorted(map(line, warehouse.rows(f"SELECT * FROM metarisk.{name}"))))


def line(row: Row) -> str:
    """A row as JSON; which try it was does not count, and times are the same in either warehouse."""
    kept = {name: value for name, value in row.items() if name not in OF_THE_TRY}
    return json.dumps(kept, sort_keys=True, default=str, ensure_ascii=False)


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """Every page and model card."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".html", ".md"}:
            yield path.relative_to(folder).as_posix().replace("/", "_"), path.read_text("utf-8")


def answers(tree: Tree, case: Case, project: Path, url: str, warehouse: Any) -> Iterator[tuple[str, str]]:
    """What commands say in JSON of what was published."""
    from typer.testing import CliRunner

    first, last = case.nights[0], case.nights[-1]
    (row,) = warehouse.rows("SELECT run_id, min(entity) AS entity FROM metarisk.score_current GROUP BY run_id")
    portfolio = ("--portfolio", case.portfolio)
    commands = {
        "explain": ("explain", *portfolio, "--entity", row["entity"]),
        "why": ("why", *portfolio, "--from", str(first), "--to", str(last)),
        "replay": ("replay", row["run_id"]),
        "audit": ("audit", "verify", *portfolio, "--all"),
        "models": ("models", "list", *portfolio),
    }
    where = {"METARISK_PROJECT": str(project), "METARISK_WAREHOUSE": url, "METARISK_THREADS": "1"}
    for name, words in commands.items():
        said = CliRunner().invoke(importlib.import_module("metarisk.cli").app, [*words, "--json"], env=where)
        yield name, f"exit {said.exit_code}\n" + _pretty(said.stdout)


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False)
    except ValueError:
        return text


@contextmanager
def place(keep: Path | None, name: str) -> Iterator[Path]:
    """A folder for a project that is not there yet, and stays only where it is asked for."""
    with ExitStack() as stack:
        parent = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metarisk-golden-")))
        if (parent / name).exists():
            raise SystemExit(f"{parent / name} exists: name a folder without it by --keep")
        yield parent / name


@contextmanager
def warehouse_url(case: Case) -> Iterator[str]:
    """The URL of an empty warehouse: a file of the project's data, or a server of its own."""
    if not case.server:
        yield "duckdb:///warehouse.duckdb"
        return
    from tests.warehouses import server

    with server() as running:
        yield running.url(running.create_database())


def write(out: Path, found: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
    """Write hashes to a JSON file, and what was hashed to the folder beside it."""
    content: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for case, kinds in found.items():
        shutil.rmtree(out.with_suffix("") / case, ignore_errors=True)
        for kind, of in kinds.items():
            folder = out.with_suffix("") / case / kind
            folder.mkdir(parents=True)
            for name, text in of.items():
                (folder / name).write_text(text, "utf-8")
        own = kinds["tables"]
        ids = {
            "models": [json.loads(row)["model_id"] for row in own["model"].splitlines()],
            "runs": {row["as_of"]: row["run_id"] for row in map(json.loads, own["run"].splitlines())},
            "seals": [json.loads(row)["hash"] for row in own["event_log"].splitlines()],
        }
        hashed = {kind: {name: _sum(text) for name, text in of.items()} for kind, of in kinds.items()}
        content[case] = ids | hashed
    out.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def compare(one: Path, other: Path, within: float) -> int:
    """Print what differs between two written files; how many things do."""
    then, now = json.loads(one.read_text()), json.loads(other.read_text())
    different = 0
    for case in sorted({*then, *now}):
        if case not in then or case not in now:
            print(f"{case}: only in {one if case in then else other}")
            different += 1
            continue
        texts = [dict(_texts(path.with_suffix("") / case, bool(within))) for path in (one, other)]
        names = sorted({*texts[0], *texts[1]})
        apart = [name for name in names if not _same(texts[0].get(name), texts[1].get(name), within)]
        if not within and [then[case][key] != now[case][key] for key in ("models", "runs", "seals")] != [False] * 3:
            print(f"{case}: ids of models, runs or seals differ")
        for name in apart:
            told = list(_difference(texts[0].get(name), texts[1].get(name), within))
            print(f"{case}: {name} differs in {len(told)} lines", *told[:SHOWN], sep="\n    ")
        print(f"{case}: {len(names) - len(apart)} of {len(names)} tables, pages and answers are the same")
        different += len(apart)
    return different


def _texts(folder: Path, blank: bool) -> Iterator[tuple[str, list[str]]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            text, name = path.read_text("utf-8"), path.relative_to(folder).as_posix()
            lines = (_HASH.sub("HASH", text) if blank else text).splitlines()
            yield _HASH.sub("HASH", name) if blank else name, sorted(lines) if name.startswith("tables/") else lines


def _same(one: list[str] | None, other: list[str] | None, within: float) -> bool:
    if one is None or other is None or len(one) != len(other):
        return False
    return all(a == b or (within > 0 and _close(a, b, within)) for a, b in zip(one, other, strict=True))


def _close(one: str, other: str, within: float) -> bool:
    """Whether two lines are the same but for numbers that are hardly apart."""
    if _NUMBER.sub("#", one) != _NUMBER.sub("#", other):
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(a == b or math.isclose(float(a), float(b), rel_tol=within, abs_tol=within) for a, b in pairs)


def _difference(one: list[str] | None, other: list[str] | None, within: float) -> Iterable[str]:
    if one is None or other is None:
        return ["only in the " + ("second" if one is None else "first")]
    if len(one) == len(other):
        lines = [(a, b) for a, b in zip(one, other, strict=True) if a != b and not (within and _close(a, b, within))]
        return [f"{sign} {_around(mine, its)}" for a, b in lines for sign, mine, its in (("-", a, b), ("+", b, a))]
    return [text[:300] for text in difflib.unified_diff(one, other, lineterm="", n=0)][2:]


def _around(text: str, other: str) -> str:
    """The part of a long line in which it begins to differ from another."""
    first = next((place for place, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), 0)
    return ("..." if first > 60 else "") + text[max(0, first - 60) : first + 120]


def main() -> int:
    """Run the cases, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--only", nargs="*", choices=[*CASES], default=[*CASES])
    parser.add_argument("--keep", type=Path, help="folder in which the projects stay")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"))
    parser.add_argument("--within", type=float, default=0.0, help="how far numbers may be apart")
    asked = parser.parse_args()
    if asked.compare:
        return min(1, compare(*asked.compare, asked.within))
    if asked.out is None:
        parser.error("name a file to write, or --compare two")
    tree = Tree()
    monotonic, cpu = time.monotonic, time.process_time
    tree.pin()
    for name in asked.only:
        began, used = monotonic(), cpu()
        with place(asked.keep, name) as project, warehouse_url(CASES[name]) as url:
            write(asked.out, {name: run(tree, CASES[name], project, url)})
        print(f"{name}: {monotonic() - began:.0f} s, {cpu() - used:.0f} s of CPU", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
