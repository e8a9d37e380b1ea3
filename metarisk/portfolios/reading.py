"""One TOML becomes one Portfolio, or an error that names file, key and remedy. Files are read; nothing is queried."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from metarisk.domain import ConfigError, Portfolio, RiskSpec, Source, did_you_mean
from metarisk.portfolios.rules import broken_rules, unlike_label
from metarisk.settings import root_of

_ADAPTER: TypeAdapter[Portfolio] = TypeAdapter(Portfolio)
_LONGEST_NAME = 255
"""Bytes, of most file systems."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def list_portfolios(project: Path) -> list[str]:
    """Names of the portfolios of a project, sorted: one for each `portfolios/*.toml`."""
    return sorted(path.stem for path in (project / "portfolios").glob("*.toml"))


def load_portfolio(project: Path, name: str, risks: Mapping[str, RiskSpec] | None = None) -> Portfolio:
    """Read and check `portfolios/<name>.toml`.

    Args:
        project: folder that holds portfolios/, expectations/ and sql/.
        name: name of the portfolio, which is the file's stem.
        risks: risk types that the code knows by name; None leaves the type unchecked.

    Raises:
        ConfigError: no such portfolio, not TOML, an unknown or missing key, a value of the wrong kind, keys that
            contradict each other, or an SQL or suite file that is missing or outside its folder.
    """
    portfolio = _parsed(project, name)
    if risks is not None and portfolio.risk not in risks:
        what = f"`risk` is {portfolio.risk!r}, which no risk type is called{did_you_mean(portfolio.risk, risks)}"
        raise _refusal(name, what, f"use one of {', '.join(sorted(risks))}")
    columns = portfolio.columns
    unlike = risks and unlike_label(risks[portfolio.risk], columns.label or columns.event_date, columns.value)
    for rule in [*broken_rules(portfolio), *([unlike] if unlike else [])]:
        raise _refusal(name, rule.what, rule.remedy, rule.column)
    if "$as_of" not in extract_sql(project, portfolio):
        raise ConfigError(
            f"sql/extracts/{portfolio.source.extract} never mentions $as_of, so it would return what was not yet known",
            remedy="write WHERE ... <= $as_of, and bind labels by their known date",
            portfolio=name,
        )
    for key, sql in also_sql(project, portfolio).items():
        if "$as_of" not in sql:
            raise ConfigError(
                f"sql/extracts/{portfolio.source.also[key]} never mentions $as_of, so it would return what was not yet "
                "known",
                remedy="write WHERE ... <= $as_of",
                portfolio=name,
            )
    suite_path(project, portfolio)
    scores_suite_path(project, portfolio)
    return replace(portfolio, columns=portfolio.columns.completed())


def extract_sql(project: Path, portfolio: Portfolio) -> str:
    """Text of the portfolio's extract. Raises ConfigError when the file is missing or outside `sql/extracts`."""
    path = _inside(project, "sql/extracts", portfolio.source.extract, "source.extract", portfolio.name)
    return _text(path, portfolio.name)


def also_sql(project: Path, portfolio: Portfolio) -> dict[str, str]:
    """Texts of the portfolio's further extracts by name. Raises ConfigError as `extract_sql` does."""
    return {
        key: _text(_inside(project, "sql/extracts", file, f"source.also.{key}", portfolio.name), portfolio.name)
        for key, file in sorted(portfolio.source.also.items())
    }


def suite_path(project: Path, portfolio: Portfolio) -> Path:
    """File of the extract's expectation suite. Raises ConfigError as `extract_sql` does."""
    return _inside(project, "expectations", portfolio.source.suite, "source.suite", portfolio.name)


def scores_suite_path(project: Path, portfolio: Portfolio) -> Path:
    """File of the score table's suite: the project's, else that which comes with the code.

    Raises ConfigError as `extract_sql` does.
    """
    name = portfolio.source.scores_suite
    root = root_of(project, f"expectations/{name}") if name == Source.scores_suite else project
    return _inside(root, "expectations", name, "source.scores_suite", portfolio.name)


def config_hash(portfolio: Portfolio, *texts: str) -> str:
    """SHA-256 of a portfolio and of the texts it points to (SQL, suites): what makes it another configuration.

    The order of features counts, since it is the order of a model's inputs; line endings do not, nor does over how many
    connections an extract comes.
    """
    told = asdict(portfolio)
    del told["source"]["partitions"]
    parts = [json.dumps(told, ensure_ascii=False), *("\n".join(text.splitlines()) for text in texts)]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def _parsed(project: Path, name: str) -> Portfolio:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a portfolio", remedy="use a-z, 0-9 and _, beginning with a letter, at most 63"
        )
    file = project / "portfolios" / f"{name}.toml"
    where = f"portfolios/{name}.toml"
    if not file.is_file():
        known = list_portfolios(project)
        raise ConfigError(
            f"{where} does not exist{did_you_mean(name, known)}",
            remedy=f"use one of {', '.join(known)}" if known else "write one with `metarisk portfolio new`",
            portfolio=name,
        )
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is not TOML: {error}", remedy="correct that place", portfolio=name) from error
    except (RecursionError, OSError) as error:
        what, remedy = _TOO_DEEP
        if isinstance(error, OSError):
            what, remedy = f"it cannot be read: {error.strerror}", "look at its type and its rights"
        raise _refusal(name, what, remedy) from None
    if raw.setdefault("name", name) != name:
        what = f"`name` is {raw['name']!r} but the file is called {name!r}"
        raise _refusal(name, what, "make them equal, or leave `name` out")
    try:
        # Strict JSON takes an array for a tuple yet never "3" for 3, which strict Python input cannot tell apart.
        return _ADAPTER.validate_json(json.dumps(raw, default=str), strict=True)
    except RecursionError:
        raise _refusal(name, *_TOO_DEEP) from None
    except ValidationError as error:
        raise _explained(error, name) from None


_TOO_DEEP = "its tables or lists are nested too deep", "no key of a portfolio takes more than three levels"


def _refusal(name: str, what: str, remedy: str, column: str | None = None) -> ConfigError:
    """The error that says what is wrong in a portfolio's TOML."""
    return ConfigError(f"portfolios/{name}.toml: {what}", remedy=remedy, portfolio=name, column=column)


def _explained(error: ValidationError, name: str) -> ConfigError:
    # A misspelt key is reported twice, as unknown and as missing; the unknown one carries the hint.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    first = problems[0]
    *parents, leaf = first["loc"]
    key = _dotted(first["loc"])
    known = _keys_at(parents)
    if first["type"] == "unexpected_keyword_argument":
        what = f"unknown key `{key}`{did_you_mean(str(leaf), known)}"
        remedy = f"take it out, or use one of {', '.join(known)}"
    elif first["type"] == "missing":
        what, remedy = f"key `{key}` is missing", "write it; docs/portfolios.md says what it means"
    else:
        got = json.dumps(first["input"], ensure_ascii=False)
        what = f"`{key}` is {got[:80]}: {first['msg'][0].lower()}{first['msg'][1:]}"
        remedy = "correct it; docs/portfolios.md says what it means"
    rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return _refusal(name, f"{what}{rest}", remedy)


def _dotted(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")


def _keys_at(location: list[int | str]) -> list[str]:
    """Keys that a TOML table at `location` may have."""
    kind: Any = Portfolio
    for step in location:
        # Through a field of a dataclass, or through the items of a tuple or of a mapping.
        kind = get_type_hints(kind)[str(step)] if is_dataclass(kind) else _item(kind)
    return list(get_type_hints(kind)) if is_dataclass(kind) else []


def _item(kind: Any) -> Any:
    arguments = get_args(kind)
    return arguments[1] if kind.__origin__ is Mapping else arguments[0]


def _text(path: Path, portfolio: str) -> str:
    """An SQL file. Raises ConfigError where it is no text that a warehouse takes."""
    where = f"{path.parent.name}/{path.name}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{where} cannot be read: {said}", remedy="write it as UTF-8", portfolio=portfolio) from None
    if "\0" in text:
        raise ConfigError(f"{where} holds a NUL character", remedy="take it out", portfolio=portfolio)
    return text


def _inside(project: Path, folder: str, name: str, key: str, portfolio: str) -> Path:
    root = (project / folder).resolve()
    if "\0" in name or len(name.encode(errors="replace")) > _LONGEST_NAME:
        what = f"`{key}` is {name[:40]!r}..., which can be no file's name"
        raise _refusal(portfolio, what, f"use up to {_LONGEST_NAME} bytes without NUL")
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        what = f"`{key}` is {name!r}, which lies outside {folder}"
        raise _refusal(portfolio, what, f"put the file into {folder} and give its name alone")
    if not path.is_file():
        present = sorted(file.name for file in root.glob(f"*{path.suffix}"))
        what = f"`{key}` is {name!r}, and {folder}/{name} does not exist{did_you_mean(name, present)}"
        raise _refusal(portfolio, what, "write that file or correct the key")
    return path
