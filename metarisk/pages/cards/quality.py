"""Data quality: which rules were broken, by how many rows, and what passed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metarisk.pages.page import Card, Page, Problem

Check = Mapping[str, Any]
_ORDER = ("critical", "warning", "info")
_TEMPLATE = """\
<section class="card">
  <h2>Data quality</h2>
  <p class="soft">{{ passed | length }} of {{ values | length }} {{ "check" if values | length == 1 else "checks" }} passed.</p>
  {% if failed %}
  <div class="scroll"><table>
    <thead><tr><th>Broken rule</th><th>Column</th><th>Severity</th><th class="n">Failing rows</th></tr></thead>
    <tbody>
    {% for check in failed %}
    {% set failing = check.failing_rows or 0 %}
    {% set observed = "" if check.detail == (failing | count) ~ " rows" else check.detail %}
    <tr><td><bdi>{{ check.rule | name(120) }}</bdi><div class="soft small">{{ check.suite }}{% if observed %}: <bdi>{{ observed | name(400) }}</bdi>{% endif %}</div></td>
      <td><bdi>{{ (check.column_name or "–") | name }}</bdi></td>
      <td><span class="tag {{ check.severity }}">{{ check.severity }}</span></td>
      <td class="n">{% if failing %}{{ failing | count }} <span class="soft">of {{ (check.total_rows or 0) | count }}</span>{% else %}–{% endif %}</td></tr>
    {% endfor %}
    </tbody>
  </table></div>
  {% endif %}
  {% if passed %}
  <details><summary>What passed</summary>
  <ul class="columns small">{% for check in passed %}<li><bdi>{{ check.rule | name(120) }}</bdi></li>{% endfor %}</ul></details>
  {% endif %}
</section>
"""


def _failed(checks: Sequence[Check]) -> list[Check]:
    """Broken rules, the most severe first."""
    return sorted(
        (check for check in checks if not check["success"]), key=lambda check: _ORDER.index(check["severity"])
    )


def _show(checks: Sequence[Check], page: Page) -> dict[str, object]:
    passed = sorted((check for check in checks if check["success"]), key=lambda check: _ORDER.index(check["severity"]))
    return {"failed": _failed(checks), "passed": passed}


def _problems(checks: Sequence[Check], page: Page) -> Iterator[Problem]:
    for check in _failed(checks):
        # The check that stopped a night stands in its reason already.
        if check["severity"] != "info" and not (page.stopped and check["rule"] in page.stopped):
            column = f"{check['column_name']}: " if check["column_name"] else ""
            text = f"Check failed: {column}{check['rule']} ({_failing(check)})."
            yield Problem("bad" if check["severity"] == "critical" else "watch", text)


def _failing(check: Check) -> str:
    if check["failing_rows"]:
        return f"{check['failing_rows']:,} of {check['total_rows'] or 0:,} rows"
    return f"observed {check['detail']}" if check["detail"] else str(check["suite"])


CARD = Card({"night": (100, 0), "week": (90, 0)}, lambda subject: subject.checks, _TEMPLATE, _show, problems=_problems)
