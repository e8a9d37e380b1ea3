"""The environment, read once; everything below receives values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

_SHIPPED = Path(__file__).resolve().parents[1]


def root_of(project: Path, path: str) -> Path:
    """The project, or where it lacks `path`, the folder that comes with the code, if that has it."""
    return project if (project / path).exists() or not (_SHIPPED / path).exists() else _SHIPPED


class Settings(BaseSettings):
    """`METARISK_*` variables. `warehouse` may hold a password, so it is never printed, logged or written."""

    model_config = SettingsConfigDict(env_prefix="METARISK_", frozen=True, extra="ignore")

    project: Path = Field(default_factory=Path.cwd)
    """Folder that holds portfolios/, expectations/ and sql/extracts."""
    data: Path = Path("var")
    """Folder of the lake, the registry and the reports; relative to `project`."""
    warehouse: SecretStr = SecretStr("duckdb:///warehouse.duckdb")
    """`duckdb:///FILE` (relative to `data`) or `postgresql://USER:PASSWORD@HOST/DATABASE`."""
    lake: SecretStr | None = None
    """`s3://BUCKET/PREFIX`: a copy of lake, registry and archive on object storage; it may hold credentials."""
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    memory_mb: int = Field(default=1024, ge=128)
    """Ceiling of DuckDB's own memory in a step; larger sorts spill to disk."""

    runner: Literal["local", "ray"] = "local"
    """Where flows score: in their own process, or in shards on Ray."""

    gpu_wait_hours: float = Field(default=6.0, gt=0)
    """How long a weekly waits for a worker of the pool `gpu` before it runs on `default`."""

    @property
    def data_dir(self) -> Path:
        """`data`, resolved against the project."""
        return self.data if self.data.is_absolute() else self.project / self.data

    @property
    def migrations(self) -> Path:
        """Folder of the migrations of schema `metarisk`."""
        return root_of(self.project, "sql/migrations") / "sql" / "migrations"

    @property
    def views(self) -> Path:
        """Folder of its views."""
        return root_of(self.project, "sql/views") / "sql" / "views"

    @property
    def dictionary(self) -> Path:
        """Folder that says what its tables, views and columns mean."""
        return root_of(self.project, "sql/dictionary") / "sql" / "dictionary"
