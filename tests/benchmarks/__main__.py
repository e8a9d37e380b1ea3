"""Every benchmark, each in its own process: `python -m tests.benchmarks [--quick] [--json FOLDER]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HELPERS = {"__init__", "__main__", "harness", "segments"}


def main() -> int:
    """Run all; the number that failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="folder for one file a benchmark")
    arguments = parser.parse_args()
    if arguments.json is not None:
        arguments.json.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in HELPERS:
            continue
        print(f"\n{path.stem}", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.{path.stem}"]
        command += ["--quick"] * arguments.quick
        if arguments.json is not None:
            command += ["--json", str(arguments.json / f"{path.stem}.json")]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
