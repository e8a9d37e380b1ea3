"""The house: no corridor, no long file, SQL in its rooms, an order of steps, a step and a card in one file each.

`python -m tests.architecture.test_house` prints the figures; with a commit it also says how many lines of source are
gone since, and fails where they are fewer than SHORTER.
"""

from __future__ import annotations

import ast
import doctest
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from metarisk.jobs.night import NIGHT
from metarisk.jobs.week import WEEK
from tests.architecture.test_architecture import FILES, NAMES, ROOT
from tests.architecture.test_sql import ROOMS, elsewhere

MOST_FILES = 20
"""Python files of a folder, that of its own documentation included: as many as one takes in at a look."""
MOST_LINES = 400
"""Lines of a file, blank ones and comments included."""
SHORTER = 700
"""Lines that the source lost when the house was built."""
OTHERWISE = {
    # a copy of the lake is kept by nights and by weeks, and asked for by who reads it
    "store": "metarisk.job.storage",
    # pages stand above steps
    "report_night": "metarisk.pages",
    "report_week": "metarisk.pages",
}
"""Steps that stand elsewhere than in a file of `steps` with their own name, and where."""


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def folders() -> Counter[str]:
    """Python files by folder."""
    return Counter(str(path.parent.relative_to(ROOT)) for path in FILES)


def lengths() -> Counter[str]:
    """Lines by file."""
    return Counter({name: path.read_text().count("\n") for name, path in zip(NAMES, FILES, strict=True)})


def examples(source: str) -> int:
    """Lines of examples in docstrings."""
    texts = (ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED))
    found = (example for text in texts if text for example in doctest.DocTestParser().get_examples(text))
    return sum((example.source + example.want).count("\n") for example in found)


def lines(sources: Iterable[str]) -> int:
    """Lines of Python source, examples in docstrings not counted."""
    return sum(source.count("\n") - examples(source) for source in sources)


def sources_of(commit: str) -> Iterator[str]:
    """Python files of the package and the flows as they were at a commit."""
    command = ["git", "archive", commit, "metarisk", "flows"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files.getmembers():
            if member.name.endswith(".py") and (file := files.extractfile(member)) is not None:
                yield file.read().decode()


def ordered(source: str) -> Iterator[list[str]]:
    """Names in a row: what each tuple and list holds, as names or as texts, and what each function runs as steps."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Tuple | ast.List):
            yield [str(getattr(item, "id", getattr(item, "attr", getattr(item, "value", "")))) for item in node.elts]
        elif isinstance(node, ast.FunctionDef):
            calls = (call for call in ast.walk(node) if isinstance(call, ast.Call) and call.args)
            runs = (call.args[0] for call in calls if getattr(call.func, "id", "") == "run")
            yield [ast.unparse(step).rpartition(".")[2] for step in runs]


@cache
def in_a_row() -> dict[str, list[list[str]]]:
    """By file what `ordered` finds there."""
    return {name: list(ordered(path.read_text())) for name, path in zip(NAMES, FILES, strict=True)}


def orders(steps: Iterable[Callable[..., object]], besides: Iterable[Callable[..., object]]) -> list[str]:
    """Files in which three or more steps stand in a row; those that `besides` has, too, say nothing."""
    own = {step.__name__ for step in steps} - {step.__name__ for step in besides}
    return [name for name, rows in in_a_row().items() if any(len(own.intersection(row)) > 2 for row in rows)]


def cards() -> list[str]:
    """Modules of cards."""
    files = (name for name in NAMES if name.startswith("metarisk/pages/cards/") and not name.endswith("__init__.py"))
    return [name.removesuffix(".py").replace("/", ".") for name in files]


def test_no_folder_is_a_corridor() -> None:
    assert {name: count for name, count in folders().items() if count > MOST_FILES} == {}


def test_no_file_is_long() -> None:
    assert {name: count for name, count in lengths().items() if count > MOST_LINES} == {}


def test_examples_in_docstrings_are_no_source() -> None:
    source = '"""Told.\n\n>>> 1 + 1\n2\n"""\n\n\ndef f():\n    """Told.\n\n    >>> f(\n    ... )\n    """\n'
    assert (source.count("\n"), examples(source)) == (13, 4)


@pytest.mark.parametrize(
    "source",
    [
        "LIST = (adapt, score, guard)",
        "LIST = ['adapt', 'score', 'guard']",
        "LIST = [steps.adapt, score.score, 'guard']",
        "def night():\n    a = run(adapt)\n    b = run(score, a)\n    run(guard, b)",
    ],
)
def test_an_order_is_seen(source: str) -> None:
    assert any(row == ["adapt", "score", "guard"] for row in ordered(source))


@pytest.mark.parametrize(
    ("steps", "besides", "file"), [(NIGHT, WEEK, "metarisk/jobs/night.py"), (WEEK, NIGHT, "metarisk/jobs/week.py")]
)
def test_the_order_of_steps_is_read_in_one_file(
    steps: Iterable[Callable[..., object]], besides: Iterable[Callable[..., object]], file: str
) -> None:
    assert orders(steps, besides) == [file]


@pytest.mark.parametrize("step", dict.fromkeys((*NIGHT, *WEEK)), ids=lambda step: step.__name__)
def test_a_step_is_read_in_one_file(step: Callable[..., object]) -> None:
    name = step.__name__
    assert (step.__module__ + ".").startswith(OTHERWISE.get(name, f"metarisk.steps.{name}") + ".")


def test_there_are_cards() -> None:
    # pages of a night, a week, the drift watch and the model card have about ten each
    assert len(cards()) > 30


@pytest.mark.parametrize("name", cards())
def test_a_card_is_read_in_one_file(name: str) -> None:
    """Values, template, pictures and words of attention of a card stand in its file alone."""
    card = import_module(name).CARD
    assert {part.__module__ for part in (card.gather, card.show, card.tiles, card.problems)} <= {
        name,
        "metarisk.pages.page",
    }
    assert not re.search(r"{%-?\s*(include|extends|block)\b", card.template)
    head = re.search(r"<h2>[^{<]{4,}", card.template)
    if head is not None:
        places = [path for path in (ROOT / "metarisk").rglob("*.*") if path.suffix in (".py", ".j2")]
        assert [path.stem for path in places if head[0] in path.read_text()] == [name.rpartition(".")[2]]


def test_every_package_that_ships_is_under_the_contracts() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    here = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert here == set(tool["importlinter"]["root_packages"])


def test_a_new_room_is_inside_the_rules_the_moment_it_exists(tmp_path: Path) -> None:
    for name in ("metarisk", "flows"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = {
        "metarisk/risks/prepayment": "from metarisk.risks.credit import SPEC",
        "metarisk/forecasts": "import great_expectations",
        "metarisk/risks/prepayment/mathematics": "import great_expectations",
    }
    for room, line in planted.items():
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(f'"""Planted."""\n\n{line}\n')
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"]
    found = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 1, found.stdout + found.stderr
    broken = found.stdout.split("Broken contracts")[1]
    for arrow in (
        "metarisk.risks.prepayment -> metarisk.risks.credit",
        "metarisk.forecasts -> great_expectations",
        "metarisk.risks.prepayment.mathematics -> great_expectations",
    ):
        assert arrow in broken
    assert "3 broken" in found.stdout


def main(before: str | None = None) -> int:
    """Print the figures; with a commit, 1 where fewer than SHORTER lines are gone since it."""
    print(f"folders of more than {MOST_FILES} files: {sum(count > MOST_FILES for count in folders().values())}; most:")
    print(*(f"  {count:4} {name}" for name, count in folders().most_common(5)), sep="\n")
    print(f"files of more than {MOST_LINES} lines: {sum(count > MOST_LINES for count in lengths().values())}; longest:")
    print(*(f"  {count:4} {name}" for name, count in lengths().most_common(5)), sep="\n")
    print(f"SQL of schema metarisk outside {', '.join(ROOMS)}: {len(elsewhere())}")
    print(f"the order of a night: {', '.join(orders(NIGHT, WEEK))}; of a week: {', '.join(orders(WEEK, NIGHT))}")
    print(*(f"  {step.__name__:12} {step.__module__}" for step in dict.fromkeys((*NIGHT, *WEEK))), sep="\n")
    print(f"cards, a file each: {len(cards())}")
    now = lines(path.read_text() for path in FILES)
    print(f"lines of source: {now:,}")
    if before is None:
        return 0
    gone = lines(sources_of(before)) - now
    print(f"fewer than at {before}: {gone:,}, at least {SHORTER} wanted")
    return int(gone < SHORTER)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:2]))
