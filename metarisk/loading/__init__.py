"""Files on their way into schema `source`: what is in them is found out over all rows, and nothing is lost in silence.

`open_table` gives what was understood and a stream of exactly typed batches. No warehouse is known here.
"""

from metarisk.loading.model import Limits, Options, Understood, Wanted, counted, wanted_type
from metarisk.loading.tables import Table, open_table

__all__ = [
    "Limits",
    "Options",
    "Table",
    "Understood",
    "Wanted",
    "counted",
    "open_table",
    "wanted_type",
]
