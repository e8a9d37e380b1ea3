"""Suites as files: reading JSON, filling in `$as_of` and other parameters. Great Expectations judges them later."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, cast, get_args

from metarisk.domain import ConfigError, LikelihoodName, did_you_mean
from metarisk.quality.results import Severity

Parameter = str | int | float | date
_NAMED = re.compile(r"\$([a-z_]+)")
_COLUMNS = ("column", "column_A", "column_B")
_KEYS = {"type", "kwargs", "severity", "description", "meta", "notes", "id"}


@dataclass(frozen=True)
class Rule:
    """One expectation of a suite, parameters filled in."""

    type: str
    kwargs: Mapping[str, Any]
    severity: Severity
    description: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    personal: bool = False
    """Whether it is about a personal column, so that neither its arguments nor what was observed may be told."""

    @property
    def name(self) -> str:
        """The description, or the expectation in words with its arguments."""
        if self.description:
            return self.description
        words, told = self.type.removeprefix("expect_").replace("_", " "), dict(self.kwargs)
        if words.endswith(" between") and not self.personal:
            words = f"{words.removesuffix('between')}{_span(told.pop('min_value', None), told.pop('max_value', None))}"
        arguments = [f"{key} {value}" for key, value in told.items() if key != "column" and not self.personal]
        return f"{words} ({', '.join(arguments)})" if arguments else words

    @property
    def column(self) -> str | None:
        """The column that the rule is about, where it is about one."""
        return cast("str | None", self.kwargs.get("column"))

    @property
    def columns(self) -> list[str]:
        """All columns that it names."""
        named = [self.kwargs[key] for key in _COLUMNS if key in self.kwargs]
        return [*named, *self.kwargs.get("column_list", [])]

    @property
    def excludes(self) -> bool:
        """Whether rows that break the rule are set aside instead of scored."""
        return bool(self.meta.get("quarantine", False))


def _span(least: object, most: object) -> str:
    if least is None or most is None:
        return f"at most {most}" if least is None else f"at least {least}"
    return f"between {least} and {most}"


def score_parameters(likelihood: LikelihoodName, population: int) -> dict[str, Parameter]:
    """Parameters of `scores.json`: the range of scores of a likelihood, and how many rows are to be scored."""
    unbounded = 1.7e308
    lowest, highest = {
        "bernoulli": (0.0, 1.0),
        "hazard": (0.0, 1.0),
        "gaussian": (-unbounded, unbounded),
        "gaussian_mv": (-unbounded, unbounded),
        "quantile": (-unbounded, unbounded),
    }.get(likelihood, (0.0, unbounded))
    return {"score_min": lowest, "score_max": highest, "population": population}


def load_suite(path: Path, parameters: Mapping[str, Parameter], portfolio: str) -> list[Rule]:
    """Read a suite and fill in its parameters.

    Text that is a parameter and nothing else becomes the value; inside a longer text (an SQL query) it becomes a
    literal. Raises ConfigError naming file and rule.
    """
    where = f"expectations/{path.name}"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        rules = raw["expectations"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{where} is no suite ({type(error).__name__}: {error})",
            remedy='write {"name": ..., "expectations": [...]}; see expectations/README.md',
            portfolio=portfolio,
        ) from error
    if not isinstance(rules, list) or not rules:
        raise ConfigError(f"{where} has no rules", remedy="write at least one expectation", portfolio=portfolio)
    return [_rule(rule, parameters, f"{where}, rule {number}", portfolio) for number, rule in enumerate(rules, 1)]


def _rule(raw: Any, parameters: Mapping[str, Parameter], where: str, portfolio: str) -> Rule:
    def refuse(what: str, remedy: str) -> ConfigError:
        return ConfigError(f"{where}: {what}", remedy=remedy, portfolio=portfolio)

    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise refuse("it has no `type`", "name the expectation, as in expect_column_values_to_not_be_null")
    for key in ("kwargs", "meta"):
        if not isinstance(raw.get(key, {}), dict):
            raise refuse(f"its {key} is {json.dumps(raw[key])[:40]}, no object", f'write "{key}": {{...}}')
    kwargs = raw.get("kwargs", {})
    named = [kwargs[key] for key in _COLUMNS if key in kwargs]
    listed = kwargs.get("column_list", [])
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in [*named, *listed]):
        raise refuse("it names no column where one belongs", "write the column's name as text")
    if "\\u0000" in json.dumps(kwargs):
        raise refuse("it holds a NUL character", "take it out")
    for key in raw.keys() - _KEYS:
        raise refuse(f"unknown key {key!r}{did_you_mean(key, _KEYS)}", f"use {', '.join(sorted(_KEYS))}")
    if raw.get("severity") not in get_args(Severity):
        raise refuse(f"its severity is {raw.get('severity')!r}", f"use one of {', '.join(get_args(Severity))}")

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [filled(inner) for inner in value]
        return _filled(value) if isinstance(value, str) else value

    def _filled(text: str) -> Any:
        for name in _NAMED.findall(text):
            if name not in parameters:
                raise refuse(
                    f"nothing is known of ${name}{did_you_mean(name, parameters)}",
                    f"use one of {', '.join(f'${known}' for known in parameters)}",
                )
        if whole := _NAMED.fullmatch(text):
            value = parameters[whole[1]]
            return value.isoformat() if isinstance(value, date) else value
        return _NAMED.sub(lambda match: _literal(parameters[match[1]]), text)

    return Rule(
        raw["type"], filled(raw.get("kwargs", {})), raw["severity"], raw.get("description"), raw.get("meta", {})
    )


def _literal(value: Parameter) -> str:
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
