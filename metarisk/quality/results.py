"""What a check found, as plain values: for the warehouse, the report, and the decision to go on."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from metarisk.domain import QualityError

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True)
class Result:
    """One rule's verdict."""

    suite: str
    rule: str
    column: str | None
    severity: Severity
    success: bool
    failing_rows: int | None
    """Rows that break the rule; None where the rule is about the table as a whole."""
    total_rows: int
    detail: str = ""
    remedy: str = ""
    excludes: bool = False
    """Whether rows that break the rule are set aside instead of scored."""

    @property
    def place(self) -> str:
        """The column in words, in front of what is said of it."""
        return f"column {self.column}: " if self.column else ""


@dataclass(frozen=True)
class Quality:
    """All verdicts on one set of files, and where its failing rows are."""

    portfolio: str
    as_of: date
    suite: str
    results: tuple[Result, ...]
    total_rows: int
    failing: Path | None = None
    """Parquet with every failing row, once a rule it broke, in column `broken_rule`."""
    excluded: Path | None = None
    """Parquet with every row that later steps leave out, once, all its columns; None when there is none."""
    excluded_rows: int = 0

    @property
    def failures(self) -> list[Result]:
        """Failed rules, the most severe first."""
        order = ("critical", "warning", "info")
        return sorted((result for result in self.results if not result.success), key=lambda r: order.index(r.severity))

    @property
    def warnings(self) -> list[str]:
        """Sentences on failed rules that do not stop the run."""
        texts = [
            f"{result.place}{result.rule} failed: {result.detail}"
            for result in self.failures
            if result.severity == "warning"
        ]
        if self.excluded_rows:
            texts.append(f"{self.excluded_rows:,} of {self.total_rows:,} rows were set aside and are not scored")
        return texts

    def require(self) -> None:
        """Raise QualityError, naming the first critical rule that failed, if one did: nothing may be published.

        It carries every verdict, for the record of the failed attempt.
        """
        critical = [result for result in self.failures if result.severity == "critical"]
        if not critical:
            return
        first = critical[0]
        rest = f" ({len(critical) - 1} more critical rules failed)" if len(critical) > 1 else ""
        rows = f"look at `{self.failing}`, then " if self.failing and first.failing_rows else ""
        error = QualityError(
            f"critical rule of {first.suite} failed: {first.rule}: {first.detail}{rest}",
            remedy=first.remedy or f"{rows}correct the source, or the rule if it is wrong",
            portfolio=self.portfolio,
            column=first.column,
            on=self.as_of,
        )
        error.results = self.rows()
        raise error

    def rows(self) -> list[dict[str, Any]]:
        """Rows for the table `quality_result`."""
        return [
            {
                "suite": result.suite,
                "rule": result.rule,
                "column_name": result.column,
                "severity": result.severity,
                "success": result.success,
                "failing_rows": result.failing_rows,
                "total_rows": result.total_rows,
                "detail": result.detail or None,
                "quarantine": str(self.failing)
                if self.failing and not result.success and result.failing_rows
                else None,
            }
            for result in self.results
        ]

    def table(self) -> list[dict[str, object]]:
        """Rows to show, failures first."""
        shown = [*self.failures, *(result for result in self.results if result.success)]
        return [
            {
                "severity": result.severity,
                "passed": "yes" if result.success else "NO",
                "column": result.column or "",
                "rule": result.rule,
                "failing rows": "" if result.failing_rows is None else f"{result.failing_rows:,}",
                "detail": result.detail,
            }
            for result in shown
        ]
