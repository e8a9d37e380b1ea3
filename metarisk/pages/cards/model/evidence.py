"""Evidence: what it scored on rows that opened after its labels, and what others lost to the opponent."""

from metarisk.evidence import words_of
from metarisk.pages.cards.model import Section, section, with_interval
from metarisk.pages.subjects import RegisteredModel


def _gather(model: RegisteredModel) -> Section:
    forward = [row for row in model.evidence if row["protocol"] == "walk_forward" and row["slice"] == "all"]
    own = [row for row in forward if row["candidate"] == model.row["recipe"]]
    if not own:
        sentence = "Nothing could be judged walking forward."
    else:
        count = f"{own[0]['rows']:,} rows with {own[0]['events']:,} events"
        sentence = f"On {count} that opened after the labels that taught; {own[0]['note']}."
    rows = [{"metric": words_of(row["metric"]), "value": with_interval(row)} for row in own]
    rows += [
        {"metric": f"loss of {row['candidate']} less the opponent's", "value": with_interval(row)}
        for row in forward
        if row["metric"] == "loss_minus_opponent" and row["candidate"] != model.row["recipe"]
    ]
    return Section("Evidence", [sentence], rows)


CARD = section(40, _gather)
