"""A copy of the lake in a real S3 server: nights reopened from it, and what is damaged, cut off or pruned there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs
from pydantic import SecretStr

from metarisk import lake
from metarisk.domain import ConfigError, DataError
from metarisk.pipeline import pruning
from metarisk.pipeline.forgetting import forget
from metarisk.pipeline.health import examine
from metarisk.pipeline.reproducing import reproduce
from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, NAME, SECOND, Project

pytestmark = pytest.mark.xdist_group("object storage")
SECRET = "a-secret-that-nothing-shows"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Address of the server, with one bucket."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "tester")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        try:
            files = fs.S3FileSystem(
                endpoint_override=f"{host}:{port}", scheme="http", region="eu-west-1", allow_bucket_creation=True
            )
            files.create_dir("bank")
            yield f"{host}:{port}"
        finally:
            server.stop()


@pytest.fixture
def project(trained_on_duckdb: Project, tmp_path: Path, endpoint: str) -> Project:
    """The tiny project with a champion, whose lake has a copy of its own."""
    made = tiny.copy(trained_on_duckdb, tmp_path / "project")
    uri = SecretStr(f"s3://bank/{tmp_path.name}?scheme=http&region=eu-west-1&endpoint_override={endpoint}")
    return replace(made, settings=made.settings.model_copy(update={"lake": uri}))


def store(project: Project) -> lake.Store:
    """The copy of the project's lake."""
    assert project.settings.lake is not None
    return lake.Store.open(project.settings.lake.get_secret_value(), project.settings.data_dir / "lake")


def night(project: Project) -> Path:
    """Folder of the night of FIRST."""
    return project.settings.data_dir / "lake" / NAME / str(FIRST)


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_night_is_replayed_where_its_lake_never_was(project: Project) -> None:
    done = project.nightly()
    before = files(night(project))
    shutil.rmtree(project.settings.data_dir / "lake")
    assert not reproduce(project.context(FIRST), done.run_id).differences
    after = files(night(project))
    assert {name: after[name] for name in before if name in after} == {k: v for k, v in before.items() if k in after}
    assert any("score" in name for name in after)
    # The next night tells why scores moved since one whose files it has to bring.
    shutil.rmtree(project.settings.data_dir / "lake")
    project.nightly(SECOND)
    moves = list((project.settings.data_dir / "lake" / NAME / str(SECOND)).glob("runs/*/moves-*"))
    assert len(moves) == 1


def test_the_copy_is_whole_before_the_night_is_published(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    put, left = lake.Store._put, [4]

    def cut_off(self: lake.Store, source: Path, target: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("connection reset by peer")
        put(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(lake.Store, "_put", cut_off)
        with pytest.raises(DataError, match="object storage failed") as caught:
            project.nightly()
    assert "METARISK_LAKE" in caught.value.remedy
    assert SECRET not in str(caught.value)
    assert project.count("publication") == 0
    assert store(project).bring(night(project)) == 0  # half a copy is none
    assert project.nightly().outcome == "published"
    held = files(night(project))
    shutil.rmtree(night(project))
    assert store(project).bring(night(project)) > 5
    brought = files(night(project))
    assert all(held[name] == content for name, content in brought.items())
    assert lake.verify(next(night(project).glob("*/extract")))


def test_a_damaged_object_is_caught_before_use(project: Project) -> None:
    done = project.nightly()
    copy = store(project)
    part = next(night(project).glob("*/extract/part-*.parquet"))
    path = f"{copy.base}/{part.relative_to(copy.root).as_posix()}"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    with copy.files.open_output_stream(path) as stream:
        stream.write(bytes(content))
    assert not reproduce(project.context(FIRST), done.run_id).differences  # the local file is whole
    shutil.rmtree(night(project))
    with pytest.raises(DataError, match=r"part-00000.parquet is damaged"):
        reproduce(project.context(FIRST), done.run_id)
    assert not part.exists()


def test_a_local_file_that_is_damaged_comes_again(project: Project) -> None:
    done = project.nightly()
    part = next(night(project).glob("*/extract/part-*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-100])
    assert not reproduce(project.context(FIRST), done.run_id).differences
    assert part.read_bytes() == whole


def test_pruned_nights_leave_the_copy(project: Project) -> None:
    project.nightly()
    project.nightly(SECOND)
    project.nightly(SECOND.replace(month=7, day=1))
    shutil.rmtree(project.settings.data_dir / "lake")  # another machine prunes
    assert FIRST in pruning.prune(project.context(SECOND), 1).nights
    assert store(project).dates(NAME) == [SECOND.replace(month=7, day=1)]


def test_a_forgotten_entity_leaves_the_copy(project: Project) -> None:
    done = project.nightly()
    gone = project.scores()["entity"][3]
    shutil.rmtree(project.settings.data_dir / "lake")  # the night is in the copy alone
    forget(project.context(FIRST), gone, "officer", "request 7")
    shutil.rmtree(project.settings.data_dir / "lake")
    assert store(project).bring(night(project)) > 5
    for path in night(project).rglob("*.parquet"):
        assert not pl.read_parquet(path).select((pl.col(pl.String) == gone).any()).transpose().to_series().any(), path
    listed = store(project).files.get_file_info(fs.FileSelector(f"bank/{night_path(project)}", recursive=True))
    held = {info.path.split(f"{FIRST}/")[1] for info in listed if info.type == fs.FileType.File}
    assert {name for name in held if not name.startswith(".listings/")} == set(files(night(project)))
    found = reproduce(project.context(FIRST), done.run_id)
    assert not found.differences


def night_path(project: Project) -> str:
    """Path of the night's copy in its bucket."""
    return f"{store(project).base.removeprefix('bank/')}/{NAME}/{FIRST}"


def test_the_doctor_asks_the_storage(project: Project) -> None:
    project.nightly()
    found = {one.subject: one for one in examine(project.settings, SECOND)}
    assert found["copy of the lake"].what == "answers, holds 1 dates"
    nowhere = SecretStr("s3://nobody/x?scheme=http&region=eu-west-1&endpoint_override=127.0.0.1:9")
    gone = project.settings.model_copy(update={"lake": nowhere})
    assert not {one.subject: one for one in examine(gone, SECOND)}["copy of the lake"].fine


def test_an_address_that_is_none_is_refused(project: Project) -> None:
    wrong = project.settings.model_copy(update={"lake": SecretStr(f"sthree://tester:{SECRET}@bank")})
    with pytest.raises(ConfigError, match="METARISK_LAKE") as caught:
        replace(project, settings=wrong).nightly()
    assert SECRET not in str(caught.value)
