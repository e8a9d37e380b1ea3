"""The shape of the code: floors, documentation, and what an import may bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILES = sorted(path for package in ("metarisk", "flows") for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
UNSAFE = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LEARNERS_NEED = """
import importlib, pkgutil, sys

import sysconfig

# what Python keeps of its own build has a name by platform
own = sysconfig._get_sysconfigdata_name()
allowed = {"metarisk", "tests", own, *sys.stdlib_module_names, *sys.argv[1:]}
refused = set()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            refused.add(name)
            raise ModuleNotFoundError(f"{name} is not on a GPU node", name=name)

sys.meta_path.insert(0, Refuse())
import metarisk.learners
found = [module.name for module in pkgutil.iter_modules(metarisk.learners.__path__)]
for name in found:
    importlib.import_module(f"metarisk.learners.{name}")
assert len(found) > 5
import tests.benchmarks.gpu
try:
    import polars
except ModuleNotFoundError:
    pass
assert "polars" in refused, "nothing would have been refused"
"""
METARISK_BRINGS = """
import importlib, pkgutil, sys
import metarisk

names = (module.name for module in pkgutil.walk_packages(metarisk.__path__, "metarisk."))
found = [name for name in names if "__main__" not in name]
for name in found:
    importlib.import_module(name)
assert len(found) > 30
brought = {name.split(".")[0] for name in sys.modules}
print(sorted(brought & {"prefect", "flows", "great_expectations", "lightgbm", "arch"}))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_ruff_refuses_what_is_unsafe_in_every_file_that_ships():
    """The rules on security are on for the package and the flows, whatever pyproject.toml comes to say."""
    unsafe = "import pickle\nimport subprocess\n\npickle.loads(b'')\nsubprocess.run('ls *', shell=True, check=True)\n"
    for name in ("metarisk/probe.py", "metarisk/warehouse/probe.py", "flows/probe.py"):
        command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
        found = subprocess.run(
            [*command, "--stdin-filename", name, "-"],
            cwd=ROOT,
            input=unsafe,
            capture_output=True,
            text=True,
            check=False,
        )
        assert {"S301", "S403", "S602"} & set(found.stdout.replace(":", " ").split()) >= {"S301", "S602"}, found.stdout


def test_files_import_from_the_floors_below_their_own():
    found = run(sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


def test_metarisk_brings_neither_prefect_nor_what_is_slow_to_import():
    found = run(sys.executable, "-c", METARISK_BRINGS)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


def test_learners_and_the_benchmark_for_gpu_nodes_need_torch_numpy_and_scipy_alone():
    found = run(sys.executable, "-c", LEARNERS_NEED, *modules_of("torch", "numpy", "scipy", "threadpoolctl"))
    assert found.returncode == 0, found.stderr


def modules_of(*names: str) -> list[str]:
    """Top-level modules that these distributions bring, with all that they require, extras apart."""
    wanted, seen = [canonicalize_name(name) for name in names], set()
    while wanted:
        seen.add(name := wanted.pop())
        needs = [Requirement(line) for line in metadata.requires(name) or ()]
        here = [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
        wanted += {canonicalize_name(other) for other in here} - seen
    brought = metadata.packages_distributions().items()
    return sorted(module for module, owners in brought if {canonicalize_name(owner) for owner in owners} & seen)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_module_says_what_it_holds(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "say in two lines what lives here and what does not"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_is_stored_in_a_form_that_runs_code_when_it_is_read(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & UNSAFE
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "torch.save", "eval", "exec"}:
            pytest.fail(f"line {node.lineno} calls {ast.unparse(node.func)}")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False


# the command line imports late, so that help and mistakes are told at once
@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name != "cli"], ids=lambda path: path.name)
def test_imports_stand_at_the_top_except_those_of_the_heavy_ones(path):
    # gpboost is an extra besides, and may not be there
    late = {"great_expectations", "torch", "lightgbm", "arch", "gpboost", "openpyxl"}
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    for node in (inner for function in functions for inner in ast.walk(function)):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= late, f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in late, f"line {node.lineno}"
