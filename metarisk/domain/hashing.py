"""Hashes that name pieces of work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


def text_hash(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def identity(parts: Mapping[str, str]) -> str:
    """The id of one piece of work: 16 hexadecimal digits of the hash of what went into it."""
    return text_hash(json.dumps(dict(parts), sort_keys=True))[:16]
