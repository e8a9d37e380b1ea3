"""Hashes of its configuration, code, extract and files, and its seed."""

from metarisk.pages.cards.model import Section, section
from metarisk.pages.subjects import RegisteredModel


def _gather(model: RegisteredModel) -> Section:
    about = model.manifest["about"]
    known = {
        "configuration": model.row["config_hash"],
        "code": model.row["code_version"],
        "extract": about.get("extract", ""),
        "seed": str(about.get("seed", "")),
        **model.manifest["files"],
    }
    return Section("Hashes", rows=[{"of": name, "hash": value} for name, value in known.items()])


CARD = section(80, _gather)
