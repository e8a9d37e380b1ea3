"""What people do about alerts: acknowledge and mute."""

from datetime import date

from metarisk.domain import DataError
from metarisk.job.acceptance import require_person
from metarisk.job.context import Context
from metarisk.record import drift as records
from metarisk.steps.alerts import alert_line, sentence


def acknowledge(context: Context, alert_id: str, by: str, reason: str) -> str:
    """Record that somebody has seen an open alert; the sentence of the alert.

    Raises ConfigError where nobody is named or no reason is given, DataError where no such alert is open.
    """
    return _by_person(context, alert_id, "acknowledged", by, reason, None)


def mute(context: Context, alert_id: str, until: date, by: str, reason: str) -> str:
    """Let an open alert, and others of its segment, feature and measure, be told to nobody until a date.

    Raises what `acknowledge` does.
    """
    return _by_person(context, alert_id, "muted", by, reason, until)


def _by_person(context: Context, alert_id: str, event: str, by: str, reason: str, until: date | None) -> str:
    portfolio = context.job.portfolio
    require_person(context, by, reason)
    with context.warehouse.transaction() as transaction:
        known = records.open_alerts(transaction, portfolio)
        row = next((one for one in known if one["alert_id"] == alert_id), None)
        if row is None:
            raise DataError(
                f"no open alert {alert_id!r}", portfolio=portfolio, remedy="`metarisk drift` lists the open ones"
            )
        key = records.key_of(row)
        line = alert_line(context, key, alert_id, event, row["status"], reason, "nobody", by) | {"muted_until": until}
        records.append_alerts(transaction, portfolio, [line])
    context.warehouse.snapshot()
    return sentence(row)
