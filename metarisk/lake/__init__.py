"""The lake: immutable folders of Parquet with a manifest, and the extract that begins every run.

Nothing here decides what data mean; `quality` judges values, `tasks` gives labels.
"""

from metarisk.folders import (
    MANIFEST,
    finish_rewriting,
    read_manifest,
    rewritten,
    scratch,
    settle,
    staged,
    verify,
    whole_files,
    write_manifest,
)
from metarisk.lake.columns import Notes, canonical, check_schema, key_columns
from metarisk.lake.contents import compare
from metarisk.lake.erasing import ERASED, Erasure, erase, erase_loose, left, sealed
from metarisk.lake.extracts import Extract, extract, read_extract
from metarisk.lake.parts import parted, parts_for
from metarisk.lake.sampling import key_ranges
from metarisk.lake.store import Store

__all__ = [
    "ERASED",
    "MANIFEST",
    "Erasure",
    "Extract",
    "Notes",
    "Store",
    "canonical",
    "check_schema",
    "compare",
    "erase",
    "erase_loose",
    "extract",
    "finish_rewriting",
    "key_columns",
    "key_ranges",
    "left",
    "parted",
    "parts_for",
    "read_extract",
    "read_manifest",
    "rewritten",
    "scratch",
    "sealed",
    "settle",
    "staged",
    "verify",
    "whole_files",
    "write_manifest",
]
