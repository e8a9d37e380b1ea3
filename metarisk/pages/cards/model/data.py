"""Data: which rows taught it, and what it never sees."""

from metarisk.domain import WHOLE_BOOK
from metarisk.job.champion import load_model
from metarisk.pages.cards.model import Section, section
from metarisk.pages.subjects import RegisteredModel


def _gather(subject: RegisteredModel) -> Section:
    model, columns, kept = (
        load_model(subject.context, subject.model_id),
        subject.context.portfolio.columns,
        subject.taught,
    )
    sentences = [f"{len(model.segments):,} segments of {' x '.join(columns.segments)} taught it."]
    if columns.segments == (WHOLE_BOOK,):
        sentences = ["The whole book, which has no segments, taught it."]
    if kept:
        opened = " to ".join(kept["opened"])
        what = "at risk, mature or not," if model.recipe.hazard else "whose outcome was known"
        sentences.insert(
            0, f"{kept['rows']:,} rows {what} opened {opened}, with labels as they were known at the cut-off."
        )
    if columns.protected:
        sentences.append(f"Never an input: {', '.join(columns.protected)}.")
    return Section("Data", sentences)


CARD = section(20, _gather)
