"""`make mutants`: small faults planted in the code one at a time, and whether the tests that stand beside it notice.

`python -m tests.mutants [--room NAME ...] [--each 28] [--seed 0] [--jobs 2] [--minutes 60]`: of every room of ROOMS as
many mutants as `--each` says are drawn, made by the operators of cosmic-ray and run against the room's own tests alone,
never the whole suite. A mutant lives in the memory of a forked process: no file is edited, so tests that ask a process
started anew do not see it. Prints a line a survivor, the share killed by room, and which mutants time left no room for.
Mutants that change nothing which a test could see stand in mutants.toml, each with the reason, and are not counted.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.machinery
import itertools
import json
import math
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import CodeType

import psutil
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_suffix(".toml")
PRELOADED = [
    "adbc_driver_postgresql.dbapi", "altair", "anyio.pytest_plugin", "duckdb", "execnet", "great_expectations",
    "hypothesis", "lightgbm", "polars", "psycopg", "pyarrow.parquet", "pytest", "scipy.optimize", "scipy.stats",
    "sklearn.linear_model", "torch", "xdist.plugin",
]  # fmt: skip
"""What every process would import again; nothing of the project, so that a mutant is met by all who import it."""
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
GUARDS = r"\b(strict|frozen)=True\b"
"""A `zip` of what is of one length by its making, a dataclass that nobody writes to: no test can meet them."""
SLOWER, PATIENCE = 3.0, 10.0
"""Times, and seconds, of the processor that a run may use beside what it uses without a fault, before it hangs."""
ASLEEP = 1_200.0
"""Seconds of the clock after which a run that uses no processor hangs too."""
EVERY = 25
"""Mutants between two lines that say how far it is."""
KILLED, SURVIVED, HUNG, NEVER_RUN = "killed", "survived", "hung", "not run"


@dataclass(frozen=True)
class Room:
    """Code and the tests that stand beside it; paths from the project's root."""

    code: Sequence[str]
    tests: Sequence[str]


UNIT = "tests/unit/test_"
ROOMS = {
    "tasks": Room(["metarisk/tasks.py"], [UNIT + "tasks.py"]),
    "calibration": Room(["metarisk/calibration.py"], [UNIT + "calibration.py"]),
    "metrics": Room(["metarisk/metrics.py"], [UNIT + "metrics.py"]),
    "drift": Room(["metarisk/drift/decide.py"], [UNIT + "drift.py"]),
    "alerts": Room(["metarisk/drift/alerts.py"], [UNIT + "drift_alerts.py"]),
    "evidence": Room(["metarisk/evidence/decision.py"], [UNIT + "evidence.py"]),
    "promotion": Room(["metarisk/record/models.py", "metarisk/upkeep/models.py"], [UNIT + "promotion.py"]),
    "publish": Room(["metarisk/steps/publish.py"], ["tests/end_to_end/test_publish.py"]),
    "simulation": Room(["metarisk/markets/simulation.py"], [UNIT + "volatility.py"]),
    "capital": Room(["metarisk/risks/operational/capital.py"], [UNIT + "losses.py"]),
    "detection": Room(["metarisk/risks/fraud/detection.py"], [UNIT + "detection.py"]),
    "checking": Room(["metarisk/quality/checking.py"], [UNIT + "quality.py"]),
    "lake": Room(["metarisk/lake/*.py"], [UNIT + "lake.py", UNIT + "lake_parts.py", UNIT + "lake_erasing.py"]),
    "warehouse": Room(["metarisk/warehouse/**/*.py"], [UNIT + "warehouse_quoting.py", UNIT + "warehouse.py"]),
}

SWAPS = {
    "ReplaceComparisonOperator": "Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot "
    "IsNot_Is",
    "ReplaceBinaryOperator": "Add_Sub Sub_Add Mul_Div Div_Mul Pow_Mul FloorDiv_Mul Mod_Add BitAnd_BitOr BitOr_BitAnd",
    "ReplaceUnaryOperator": "USub_UAdd Delete_Not Delete_Invert",
}  # fmt: skip
"""One neighbour each, not every other operator: of `+` turned into `>>` any test tells."""
OPERATORS = (
    *(f"core/{kind}_{swap}" for kind, swaps in SWAPS.items() for swap in swaps.split()),
    "core/NumberReplacer", "core/AddNot", "core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue",
    "core/ReplaceAndWithOr", "core/ReplaceOrWithAnd", "core/ReplaceBreakWithContinue",
    "core/ReplaceContinueWithBreak", "core/ZeroIterationForLoop", "core/ExceptionReplacer",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    room: str
    path: Path
    code: str
    line: int
    was: str
    becomes: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.was}  ->  {self.becomes}"


def main() -> None:
    """Plant and run; exits 1 where a room's tests fail without any fault."""
    asked = _arguments()
    ends = time.monotonic() + 60 * asked.minutes
    os.environ |= dict.fromkeys(ONE_THREAD, "1") | {"POLARS_MAX_THREADS": "2"}
    whole = {name: _undisturbed(ROOMS[name]) for name in asked.room}
    drawn = [mutant for name in asked.room for mutant in draw(name, asked.each, asked.seed)]
    random.Random(asked.seed).shuffle(drawn)  # when time ends every room has had its part
    print(f"{len(drawn)} mutants drawn with seed {asked.seed}", flush=True)

    def meet(mutant: Mutant) -> tuple[Mutant, str]:
        if time.monotonic() > ends:
            return mutant, NEVER_RUN
        usual = whole[mutant.room]
        most = math.ceil(SLOWER * usual.used + PATIENCE)
        return mutant, run(ROOMS[mutant.room].tests, most, usual.seconds, mutant).fate

    met: Counter[tuple[str, str]] = Counter()
    with ThreadPoolExecutor(asked.jobs) as pool:
        for done in as_completed([pool.submit(meet, mutant) for mutant in drawn]):
            mutant, fate = done.result()
            met[mutant.room, fate] += 1
            if fate not in (KILLED, HUNG):
                print(f"{fate}: {mutant}", flush=True)
            if met.total() % EVERY == 0:
                print(_share(met, None), flush=True)
    for name in [*asked.room, None]:
        print(_share(met, name))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--room", nargs="+", choices=ROOMS, default=[*ROOMS])
    parser.add_argument("--each", type=int, default=28, help="mutants of a room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--minutes", type=float, default=60)
    return parser.parse_args()


def _share(met: Counter[tuple[str, str]], name: str | None) -> str:
    """A line of the table: mutants by what became of them; of all rooms where none is named."""
    by = Counter[str]()
    for (room, fate), count in met.items():
        by[fate] += count if name in (room, None) else 0
    noticed = by[KILLED] + by[HUNG]
    run_at_all = noticed + by[SURVIVED]
    share = f"{noticed / run_at_all:6.1%}" if run_at_all else "     -"
    return f"{name or 'all':<12}{share} killed: {noticed} of {run_at_all} ({by[HUNG]} hung, {by[NEVER_RUN]} not run)"


def draw(name: str, most: int, seed: int) -> list[Mutant]:
    """Some mutants of a room, the same for the same code and seed."""
    paths = sorted(path for pattern in ROOMS[name].code for path in ROOT.glob(pattern))
    if not paths:
        sys.exit(f"room {name}: no file is named {' or '.join(ROOMS[name].code)}: mend ROOMS in {__file__}")
    known = _equivalent(name, paths)
    places = [(path, operator, number) for path in paths for operator, number in _places(path)]
    random.Random(f"{seed} {name}").shuffle(places)
    made = (mutant for path, operator, number in places if (mutant := _mutant(name, path, operator, number)))
    return list(itertools.islice((mutant for mutant in made if (mutant.was, mutant.becomes) not in known), most))


def _equivalent(name: str, paths: Sequence[Path]) -> set[tuple[str, str]]:
    """Changes of a room that no test could see; ends the program where such a line is no longer in the code."""
    listed = [line for line in tomllib.loads(EQUIVALENT.read_text())["equivalent"] if line["room"] == name]
    lines = {" ".join(line.split()) for path in paths for line in path.read_text().splitlines()}
    if gone := {line["was"] for line in listed} - lines:
        sys.exit(f"room {name}: no line is {' nor '.join(gone)}: take it out of {EQUIVALENT.name}")
    return {(line["was"], line["becomes"]) for line in listed}


def _places(path: Path) -> Iterator[tuple[str, int]]:
    """Operators that find something to change in a file, and the number of each place."""
    nodes = list(ast_nodes(get_ast(path.read_text())))
    for operator in OPERATORS:
        made = get_operator(operator)()
        for number in range(sum(len(list(made.mutation_positions(node))) for node in nodes)):
            yield operator, number


def _mutant(room: str, path: Path, operator: str, number: int) -> Mutant | None:
    """The file with one place changed; None where that changes no more than an annotation or a guard."""
    source = path.read_text()
    code = mutate_code(source, get_operator(operator)(), number)
    if code is None or _meaning(code) == _meaning(source):
        return None
    old, new = source.splitlines(), code.splitlines()
    steps = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    _, start, end, low, high = next(step for step in steps if step[0] != "equal")
    was, becomes = (" ".join(" ".join(lines).split()) for lines in (old[start:end], new[low:high]))
    return Mutant(room, path, code, start + 1, was, becomes)


def _meaning(source: str) -> str | None:
    """What a module does whatever its annotations and its guards say; None where it cannot be read."""
    try:
        tree = ast.parse(re.sub(GUARDS, r"\1=False", source))
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arguments):  # how an argument may be given is a guard too
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults += [value for value in node.kw_defaults if value is not None]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
    return ast.dump(tree)


@dataclass(frozen=True)
class Ran:
    """One run of tests: what became of the mutant, what was said, seconds by test, and of the processor."""

    fate: str
    said: str
    seconds: Mapping[str, float]
    used: float


def _undisturbed(room: Room) -> Ran:
    """A room's tests without any fault; ends the program where they fail."""
    ran = run(room.tests, 600, {})
    if ran.fate != SURVIVED:
        sys.exit(f"without any fault {' '.join(room.tests)} should pass, and was {ran.fate}:\n{ran.said}")
    return ran


def run(tests: Sequence[str], most: int, known: Mapping[str, float], mutant: Mutant | None = None) -> Ran:
    """Run tests in a process of their own, which ends with all that it started after `most` seconds of the processor.

    Tests that are `known` to be quick go first: the sooner one fails the better.
    """
    forks = get_context("forkserver")
    forks.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="metarisk-mutant-", ignore_cleanup_errors=True) as folder:
        process = forks.Process(target=_child, args=(tests, Path(folder), most, known, mutant))
        process.start()
        process.join(ASLEEP)
        hung = process.is_alive() or process.exitcode == -signal.SIGXCPU
        if hung:
            process.kill()
            process.join()
            _end_all(folder)
        said, seconds = (Path(folder) / name for name in ("output", "seconds"))
        fate = HUNG if hung else SURVIVED if process.exitcode == 0 else KILLED
        took, used = json.loads(seconds.read_text()) if fate == SURVIVED else ({}, 0.0)
        return Ran(fate, said.read_text(errors="replace"), took, used)


def _end_all(folder: str) -> None:
    """End what a hanging run has started: all processes that have its folder in their environment."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("METARISK_MUTANT") == folder:
                process.kill()
        except psutil.Error:  # gone meanwhile, or another user's
            continue


class _QuickestFirst:
    """A plugin of pytest: tests by the seconds that they are known to take, and what they took."""

    def __init__(self, known: Mapping[str, float]) -> None:
        self.known = known
        self.seconds = Counter[str]()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.known.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration


def _child(tests: Sequence[str], folder: Path, most: int, known: Mapping[str, float], mutant: Mutant | None) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    os.environ["METARISK_MUTANT"] = str(folder)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    with (folder / "output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    settings.register_profile(
        "mutants", database=None, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
    )
    if mutant is not None:
        _plant(mutant)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", f"--basetemp={folder / 'tests'}"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of hypothesis, which was here before
    plugin = _QuickestFirst(known)
    code = pytest.main([*options, "--tb=short", "--hypothesis-profile=mutants", *tests], plugins=[plugin])
    (folder / "seconds").write_text(json.dumps((plugin.seconds, time.process_time())))
    sys.stdout.flush()
    os._exit(code)  # what an interpreter tidies at its end takes as long as many a test


def _plant(mutant: Mutant) -> None:
    """Let the import of one file give the mutant's code."""
    get_code = importlib.machinery.SourceFileLoader.get_code

    def planted(loader: importlib.machinery.SourceFileLoader, name: str) -> CodeType | None:
        if Path(loader.path) == mutant.path:
            return compile(mutant.code, mutant.path, "exec", dont_inherit=True)
        return get_code(loader, name)

    importlib.machinery.SourceFileLoader.get_code = planted  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
