"""What makes two runs the same work: hashes of inputs, configuration and code."""

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

from metarisk import __version__
from metarisk.job.context import Context
from metarisk.portfolios import also_sql, config_hash, extract_sql, scores_suite_path, suite_path


@cache
def code_version() -> str:
    """The package's version and a hash of its sources: an edited installation is another version."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


@cache
def versions() -> dict[str, str]:
    """Versions of what computes a score: other ones may round otherwise."""
    return {"python": platform.python_version(), "machine": platform.machine()} | {
        package: version(package) for package in ("lightgbm", "numpy", "polars", "pyarrow", "scipy", "torch")
    }


def configuration(context: Context) -> str:
    """Hash of the portfolio with the SQL and the suites that it points to."""
    project, portfolio = context.settings.project, context.portfolio
    suites = [
        path.read_text(encoding="utf-8")
        for path in (suite_path(project, portfolio), scores_suite_path(project, portfolio))
    ]
    also = also_sql(project, portfolio).values()
    return config_hash(portfolio, extract_sql(project, portfolio), *suites, *also)
