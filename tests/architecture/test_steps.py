"""One declared order of steps: what a night and a week call, and what is written of them, follows it."""

import ast
import re
from collections.abc import Callable, Iterator, Sequence

import pytest

from metarisk.jobs.night import NIGHT
from metarisk.jobs.week import WEEK
from tests.architecture.test_architecture import ROOT

Steps = Sequence[Callable[..., object]]


def names(steps: Steps) -> list[str]:
    return [step.__name__ for step in steps]


def words(steps: Steps) -> list[str]:
    """Names as people write them: `report` of a night and of a week."""
    return [re.sub("_(night|week)$", "", name) for name in names(steps)]


def function(file: str, name: str) -> ast.FunctionDef:
    tree = ast.parse((ROOT / file).read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return found


def called(job: ast.FunctionDef) -> Iterator[str]:
    """Steps that a job calls by `run(step, ...)`, in the order of its lines."""
    calls = [node for node in ast.walk(job) if isinstance(node, ast.Call) and ast.unparse(node.func) == "run"]
    for call in sorted(calls, key=lambda call: call.lineno):
        yield ast.unparse(call.args[0])


@pytest.mark.parametrize(
    ("steps", "job", "flow"),
    [
        (NIGHT, ("metarisk/jobs/night.py", "nightly"), ("flows/nightly.py", "night")),
        (WEEK, ("metarisk/jobs/week.py", "weekly"), ("flows/weekly.py", "week")),
    ],
    ids=["night", "week"],
)
def test_a_job_calls_its_steps_as_declared_and_its_flow_says_so(
    steps: Steps, job: tuple[str, str], flow: tuple[str, str]
) -> None:
    assert list(called(function(*job))) == names(steps)
    told = " ".join((ast.get_docstring(function(*flow)) or "").split())
    assert told.endswith(": " + ", ".join(words(steps)) + ".")


def test_the_documents_tell_every_step_of_a_night_in_its_order() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"`{' -> '.join(words(NIGHT))}`" in readme
    table = readme.split("| step | what it does")[1].split("\n\n")[0]
    assert re.findall(r"^\| (\w+) \|", table, re.M) == words(NIGHT)
    operations = (ROOT / "docs/operations.md").read_text().split("**Steps.**")[1].split("\n\n")[0]
    told = dict.fromkeys(re.findall(r"`(\w+)`", operations))
    assert [name for name in told if name in names(NIGHT)] == names(NIGHT)
