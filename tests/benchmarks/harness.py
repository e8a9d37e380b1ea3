"""One way to measure and print: figures with ratios, interleaved timing in one process, and what machine it was.

Times are processor seconds of this one-threaded process, so that neighbours on a shared machine count as little as
they can; sizes and seeds stand in each benchmark. What it prints beside figures is a table for people.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("METARISK_TEST_DATA", ROOT.parent / "shared" / "data"))
"""Real data, which is no part of the project."""
_NAME = re.compile(r"[\w.+-]+")


class Skipped(Exception):
    """What a benchmark needs is not here."""


def data(name: str) -> Path:
    """A file of real data. Raises Skipped where it is absent."""
    path = DATA / name
    if not path.exists():
        raise Skipped(f"{path} is not there; METARISK_TEST_DATA names the folder that holds it")
    return path


def dotted(*parts: object) -> str:
    """A figure's name from its parts, in which anything but letters, digits, `.`, `+`, `-` becomes `_`."""
    return ".".join("_".join(_NAME.findall(str(part))) for part in parts)


@dataclass(frozen=True)
class Figure:
    """One measured number, printed as `name value unit, ratio x to, verdict`; the name is one word.

    `ratio` compares it with `to`, and `reach` and `aim` bound the ratio (or value) from above
    (from below where `more` is true)."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    to: str = ""
    reach: float | None = None
    aim: float | None = None
    more: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a figure: letters, digits, `.`, `_`, `+` and `-` are")

    @property
    def verdict(self) -> str:
        """Whether the aim or the reach is met, by ratio where there is one."""
        measured = self.value if self.ratio is None else self.ratio
        for bound, word in ((self.aim, "aim met"), (self.reach, "reach met")):
            if bound is not None and (measured >= bound if self.more else measured <= bound):
                return word
        return "" if self.reach is None and self.aim is None else "MISSED"

    def __str__(self) -> str:
        parts = [f"{self.name} {self.value:.4g} {self.unit}"]
        if self.ratio is not None:
            parts.append(f"{self.ratio:.2f} x {self.to}")
        if self.verdict:
            parts.append(f"{self.verdict} (reach {self.reach}, aim {self.aim})")
        return ", ".join(parts)


Benchmark = Callable[..., Sequence[Figure]]
"""Takes `quick`, and options of its own by name, and returns figures."""


def conditions() -> dict[str, str]:
    """Machine, threads and versions."""
    return {
        "machine": f"{platform.machine()} {_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "numpy", "torchopt", "learn2learn")},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "processor unknown")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Seconds of each run: the lower quartile over `repeats` rounds, in each of which all take their turn.

    What uses several threads wants another clock, such as `time.perf_counter`.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = clock()
            run()
            seconds[name].append(clock() - begin)
    return {name: float(np.quantile(values, 0.25)) for name, values in seconds.items()}


def sgemm() -> Callable[[], object]:
    """A product of two 512 x 512 float32 matrices: 2 * 512^3 operations, for the rate of the machine."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    out = torch.empty(512, 512)
    return lambda: torch.mm(a, b, out=out)


SGEMM_FLOPS = 2 * 512**3


def peak_memory_above(code: str) -> float:
    """MiB by which `work()` raises peak resident memory above what `prepare()` left, in a fresh process.

    `code` defines both; only a fresh process has a peak of its own.
    """
    script = (
        f"{code}\n"
        "def status(name):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith(name + ':')) / 1024\n"
        "given = prepare()\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "before = status('VmRSS')\n"
        "kept = work(given)\n"
        "print(status('VmHWM') - before)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    return float(done.stdout.split()[-1])


def options() -> argparse.ArgumentParser:
    """To add a benchmark's own options to, each with a default."""
    return argparse.ArgumentParser(add_help=False)


def main(benchmark: Benchmark, own: argparse.ArgumentParser | None = None) -> None:
    """Run one benchmark from the command line: `[--quick] [--json FILE]`, and its own options."""
    parser = argparse.ArgumentParser(parents=[own] if own else [])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer repeats")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = vars(parser.parse_args())
    file = given.pop("json")
    torch.set_num_threads(1)
    stated = conditions()
    print(", ".join(f"{name} {value}" for name, value in stated.items()))
    try:
        figures = list(benchmark(given.pop("quick"), **given))
    except Skipped as reason:
        print(f"skipped: {reason}")
        stated["skipped"], figures = str(reason), []
    for figure in figures:
        print(figure)
    if file is not None:
        contents = {"conditions": stated, "figures": [asdict(figure) for figure in figures]}
        file.write_text(json.dumps(contents, indent=1) + "\n")
