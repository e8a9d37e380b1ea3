"""What newcomers meet first has an example in its docstring, and every example says what comes of it."""

from __future__ import annotations

import doctest
import sys
from importlib import import_module

import pytest

from metarisk.adapt import LEARNERS, one_thread
from metarisk.domain import Learner, Portfolio, RiskSpec
from metarisk.risks import RISKS
from tests.architecture.test_architecture import FILES, NAMES

SHOWN = [
    name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for name, path in zip(NAMES, FILES, strict=True)
    if ">>> " in path.read_text()
]
MET_FIRST = (
    *(kind.make for kind in LEARNERS.values()),
    *(sys.modules[f"metarisk.risks.{name}"] for name in RISKS),
    Learner,
    Portfolio,
    RiskSpec,
)


@pytest.mark.parametrize("name", SHOWN)
def test_examples_of_a_module_give_what_they_say(name: str) -> None:
    with one_thread():
        found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("met", MET_FIRST, ids=lambda met: met.__name__)
def test_what_newcomers_meet_first_has_an_example(met: object) -> None:
    assert ">>> " in (met.__doc__ or "")
