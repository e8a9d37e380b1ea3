"""Tests that share a server stay on one worker: pytest-xdist marks them, unless pytest took away its way to do it."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("group_of_its_own")
def test_a_grouped_test_carries_its_group(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("not run with --dist loadgroup")
    assert request.node.nodeid.endswith("@group_of_its_own")
