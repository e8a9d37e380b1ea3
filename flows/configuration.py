"""The settings of flows: the environment, and below it blocks and variables of the Prefect server.

Secrets are `Secret` blocks, what is none is a variable; a value of the environment wins.
"""

import os
from typing import Any, cast

from prefect.blocks.system import Secret
from prefect.exceptions import ObjectNotFound
from prefect.variables import Variable
from pydantic import ValidationError

from metarisk.domain import ConfigError
from metarisk.settings import Settings

SECRETS = ("warehouse", "lake")
"""Settings that may hold a password, so that a server keeps them encrypted: block `metarisk-<name>`."""
VARIABLES = ("runner", "threads", "memory_mb")
"""Settings that a server may set for all workers: variable `metarisk_<name>`."""


def settings() -> Settings:
    """The settings of a flow run. Raises ConfigError, which never shows a value, for what is wrong on the server."""
    found: dict[str, Any] = {name: value for name in (*SECRETS, *VARIABLES) if (value := kept(name)) is not None}
    try:
        return Settings(**found)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        place = f"the variable metarisk_{name} of the Prefect server" if name in found else f"METARISK_{name.upper()}"
        raise ConfigError(f"{place} is wrong: {error.errors()[0]['msg']}", remedy="correct it, or delete it") from None


def kept(name: str) -> str | None:
    """What the Prefect server keeps of a setting that the environment does not name; None if nothing."""
    if any(variable.upper() == f"METARISK_{name}".upper() for variable in os.environ):
        return None
    if name in VARIABLES:
        value = Variable.get(f"metarisk_{name}")
        return None if value is None else str(value)
    block = f"metarisk-{name}"
    try:
        found = cast("Secret[str]", Secret.load(block))
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise
    return str(found.get())
