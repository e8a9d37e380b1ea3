"""The contract of a benchmark: it runs alone, prints a figure a line that programs can read, and says where it ran."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from metarisk.adapt import one_thread
from tests.benchmarks import harness
from tests.benchmarks.__main__ import HELPERS
from tests.benchmarks.harness import Figure, dotted

FILES = sorted(path for path in Path(harness.__file__).parent.glob("*.py") if path.stem not in HELPERS)
LINE = re.compile(
    r"(?P<name>\S+) (?P<value>\S+) (?P<unit>[^,]+)(?:, (?P<ratio>\S+) x (?P<to>[^,]+))?(?:, (?P<told>.*))?"
)


def run(
    benchmark: harness.Benchmark, *arguments: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[list[str], dict[str, object]]:
    """Lines that a benchmark prints, and its JSON."""
    file, own = tmp_path / "figures.json", harness.options()
    own.add_argument("--years", type=int, default=1)
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr("sys.argv", ["bench", *arguments, "--json", str(file)])
        harness.main(benchmark, own)
        assert torch.get_num_threads() == 1
    return capsys.readouterr().out.splitlines(), json.loads(file.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_benchmark_runs_alone_through_the_harness(path: Path) -> None:
    tree = ast.parse(path.read_text())
    (benchmark,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "benchmark")
    first, *others = benchmark.args.args
    assert first.arg == "quick"
    assert len(others) == len(benchmark.args.defaults)
    last = tree.body[-1]
    assert isinstance(last, ast.If)
    assert ast.unparse(last.test) == "__name__ == '__main__'"
    assert re.fullmatch(r"(harness\.)?main\(benchmark(, own)?\)", ast.unparse(last.body[-1]))


def test_figures_and_conditions_are_printed_and_written(tmp_path, capsys):
    def benchmark(quick: bool, years: int) -> Sequence[Figure]:
        assert (quick, years) == (True, 3)
        return [
            Figure("stub.time", 0.0125, "s of wall", 1.5, "the floor", 2.0, 1.0),
            Figure("stub.time.slow", 3.0, "s", 3.0, "the floor", 2.0, 1.0),
            Figure("stub.count.rows_5", 12345.0, "rows"),
        ]

    (conditions, *lines), written = run(benchmark, "--quick", "--years", "3", tmp_path=tmp_path, capsys=capsys)
    assert all(f"{name} " in conditions for name in ("machine", "threads", "python", "torch", "numpy"))
    parsed = [LINE.fullmatch(line).groupdict() for line in lines]
    assert [tuple(one.values())[:5] for one in parsed] == [
        ("stub.time", "0.0125", "s of wall", "1.50", "the floor"),
        ("stub.time.slow", "3", "s", "3.00", "the floor"),
        ("stub.count.rows_5", "1.234e+04", "rows", None, None),
    ]
    assert [(one["told"] or "").split(" (")[0] for one in parsed] == ["reach met", "MISSED", ""]
    assert written["conditions"]["threads"] == "1"
    assert [(one["name"], one["value"], one["ratio"]) for one in written["figures"]] == [
        ("stub.time", 0.0125, 1.5),
        ("stub.time.slow", 3.0, 3.0),
        ("stub.count.rows_5", 12345.0, None),
    ]


def test_what_is_not_here_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness, "DATA", tmp_path)

    def benchmark(quick: bool, years: int) -> Sequence[Figure]:
        harness.data("prices.parquet")
        raise AssertionError("there is no such file")

    lines, written = run(benchmark, tmp_path=tmp_path, capsys=capsys)
    assert re.fullmatch(r"skipped: \S+prices.parquet is not there; METARISK_TEST_DATA .*", lines[1])
    assert (written["figures"], written["conditions"]["skipped"]) == ([], lines[1].removeprefix("skipped: "))
    (tmp_path / "prices.parquet").touch()
    assert harness.data("prices.parquet") == tmp_path / "prices.parquet"


@pytest.mark.parametrize("name", ["", "two words", "a,b", "p<1e-5", "1/N"])
def test_a_name_is_one_word(name):
    with pytest.raises(ValueError, match="is no name of a figure"):
        Figure(name, 1.0, "s")
    Figure(f"of.{dotted(name)}", 1.0, "s")
