"""What was found about the level of the latest months, and about reasons beside the champion before."""

from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedWeek

_TEMPLATE = """\
<section class="card"><h2>Level and reasons</h2>
  {% for sentence in values %}<p><bdi>{{ sentence | prose }}</bdi></p>{% endfor %}  </section>"""


def _gather(week: PublishedWeek) -> list[str]:
    choice, compared, sentences = week.judged.level, week.trained.comparison, []
    if choice.tried:
        rule, gain = min(choice.tried, key=lambda one: one[1].mean)
        span = f"{1e4 * gain.mean:+z.1f} [{1e4 * gain.low:+z.1f}, {1e4 * gain.high:+z.1f}] x 1e-4 of loss"
        sentences.append(
            f"Nights follow the level of the latest {rule.months} known months: on validation rows that gave {span}."
            if choice.rule.months
            else f"The level is left alone: following the latest {rule.months} known months gave {span}, no certain "
            "gain."
        )
    if compared is not None:
        share = f"{compared.changed:.1%} have another first reason"
        sentences.append(f"Of the {compared.told:,} riskiest rows, {share} than by model `{compared.before}`.")
    return sentences


CARD = Card({"week": (40, 1)}, _gather, _TEMPLATE)
