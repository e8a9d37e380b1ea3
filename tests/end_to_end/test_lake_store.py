"""A copy of the lake in a real S3 server: another machine works from it; what is damaged, cut off or pruned there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs
from pydantic import SecretStr

from metarisk import jobs, lake, registry
from metarisk.answers.replay import reproduce
from metarisk.domain import ConfigError, DataError, ModelError
from metarisk.job import archive as archiving
from metarisk.job import champion as models
from metarisk.job.champion import load_model
from metarisk.job.storage import from_registry, keep_model
from metarisk.upkeep import audit
from metarisk.upkeep import prune as pruning
from metarisk.upkeep.doctor import examine
from metarisk.upkeep.forget import forget
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
    """The tiny project with a champion, whose lake has a copy of its own; the champion was trained before it had."""
    return with_copy(tiny.copy(trained_on_duckdb, tmp_path / "project"), endpoint, tmp_path)


def with_copy(made: Project, endpoint: str, tmp_path: Path) -> Project:
    """A project whose lake has a copy."""
    uri = SecretStr(f"s3://bank/{tmp_path.name}?scheme=http&region=eu-west-1&endpoint_override={endpoint}")
    return replace(made, settings=made.settings.model_copy(update={"lake": uri}))


def store(project: Project) -> lake.Store:
    """The copy of the project's lake."""
    assert project.settings.lake is not None
    return lake.Store.open(project.settings.lake.get_secret_value(), project.settings.data_dir)


def leave(project: Project) -> None:
    """Go to another machine: of the data folder it has the warehouse alone."""
    for path in project.settings.data_dir.iterdir():
        if path.name != "warehouse.duckdb":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    models._read.cache_clear()


def damage(store: lake.Store, path: Path, content: bytes) -> None:
    """Swap an object for another one."""
    with store.files.open_output_stream(store.place(path)) as stream:
        stream.write(content)


def copied(store: lake.Store, folder: Path) -> set[str]:
    """Names of the objects of a folder, listings left out."""
    place = f"{store.place(folder)}/"
    found = store.files.get_file_info(fs.FileSelector(place, recursive=True))
    names = {info.path.removeprefix(place) for info in found if info.type == fs.FileType.File}
    return {name for name in names if not name.startswith(".listings/")}


def night(project: Project) -> Path:
    """Folder of the night of FIRST."""
    return project.settings.data_dir / "lake" / NAME / str(FIRST)


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_machine_replays_a_night_and_runs_the_next(project: Project, published: Project) -> None:
    done = project.nightly()
    before = files(night(project))
    leave(project)
    assert not reproduce(project.context(FIRST), done.run_id).differences
    after = files(night(project))
    assert {name: after[name] for name in before if name in after} == {k: v for k, v in before.items() if k in after}
    assert any("score" in name for name in after)
    # The next night tells why scores moved since one whose files it has to bring.
    leave(project)
    project.nightly(SECOND)
    published.nightly(SECOND)
    assert tiny.differences(project.contents(), published.contents()) == []
    moves = list((project.settings.data_dir / "lake" / NAME / str(SECOND)).glob("runs/*/moves-*"))
    assert len(moves) == 1


def test_a_model_is_copied_before_the_warehouse_names_it(
    trained_on_duckdb: Project, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.make(tmp_path / "project")
    # What the week judged is there from an attempt of before.
    shutil.copytree(trained_on_duckdb.settings.data_dir / "lake", made.settings.data_dir / "lake")
    project, put, named = with_copy(made, endpoint, tmp_path), lake.Store._put, []

    def watched(self: lake.Store, source: Path, target: str) -> None:
        put(self, source, target)
        named.append(project.count("model"))

    monkeypatch.setattr(lake.Store, "_put", watched)
    done = project.weekly()
    assert (set(named), project.count("model")) == ({0}, 1)
    copy, folder = store(project), project.settings.data_dir / "registry" / NAME / done.model_id
    assert copied(copy, folder) == set(files(folder))
    # A model that was trained before there was a copy is copied when somebody makes it serve.
    copy.drop(folder)
    candidate = "UPDATE metarisk.model_state SET state = 'candidate' WHERE state = 'champion'"
    with project.warehouse.transaction() as transaction:
        transaction.execute(candidate)
    jobs.approve(project.context(FIRST), done.model_id, "Ann Officer", "fits")
    leave(project)
    assert load_model(project.context(FIRST), done.model_id).recipe_name == done.recipe


def test_a_swapped_model_is_refused_with_its_remedy(project: Project) -> None:
    context, copy = project.context(FIRST), store(project)
    (row,) = project.warehouse.rows("SELECT model_id FROM metarisk.model")
    model, folder = row["model_id"], project.settings.data_dir / "registry" / NAME / row["model_id"]
    keep_model(context, copy, model)
    whole = files(folder)
    (folder / "encoder.json").write_bytes(b"{}")  # damaged here: comes again
    from_registry(context, model, registry.load)
    assert files(folder) == whole
    leave(project)
    damage(copy, folder / "encoder.json", b"{}")
    with pytest.raises(ModelError, match=r"encoder.json is damaged.*restore the object.*the weekly") as caught:
        from_registry(context, model, registry.load)
    assert model in str(caught.value)
    with pytest.raises(ModelError, match=r"encoder.json is damaged"):
        project.nightly()
    # Swapped together with its sum in the listing: the name that the warehouse has is the hash of all.
    listing = {name: hashlib.sha256(content).hexdigest() for name, content in whole.items()}
    listing |= {"encoder.json": hashlib.sha256(b"{}").hexdigest()}
    damage(copy, folder / f".listings/{model}.json", json.dumps(listing).encode())
    with pytest.raises(ModelError, match=r"encoder.json changed"):
        from_registry(context, model, registry.load)
    damage(copy, folder / f".listings/{model}.json", json.dumps({"../../../stray": "0"}).encode())
    with pytest.raises(ModelError, match="which is not in that folder"):
        from_registry(context, model, registry.load)


@pytest.fixture
def small(project: Project) -> tuple[lake.Store, Path]:
    """A copy of a folder of three files."""
    folder = project.settings.data_dir / "lake" / NAME / "2020-01-31"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"Erika, {number}")
    copy = store(project)
    assert copy.keep(folder, "run", lambda *_: None) == 3
    return copy, folder


def test_a_damaged_copy_is_mended_as_its_remedy_says(small: tuple[lake.Store, Path]) -> None:
    copy, folder = small
    damage(copy, folder / "1.txt", b"else")
    (folder / "1.txt").unlink()
    with pytest.raises(DataError, match=r"1.txt is damaged.*delete .listings beside it and run the night"):
        copy.bring(folder)
    (folder / "1.txt").write_text("Erika, 1")
    copy.files.delete_dir(f"{copy.place(folder)}/.listings")
    assert copy.keep(folder, "run", lambda *_: None) == 3
    (folder / "1.txt").unlink()
    assert copy.bring(folder) == 1


@pytest.mark.parametrize("done", range(4))
def test_a_renewal_that_was_killed_is_ended_by_the_next(
    done: int, small: tuple[lake.Store, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, folder = small
    put, puts = lake.Store._put, list[str]()

    def dies(self: lake.Store, source: Path, target: str) -> None:
        if done:
            put(self, source, target)
            puts.append(target)
        if len(puts) == done:
            raise KeyboardInterrupt

    (folder / "0.txt").write_text("somebody, 0")
    (folder / "1.txt").write_text("somebody, 1")
    (folder / "2.txt").unlink()
    damage(copy, folder / "of half a copy", b"Erika")
    with monkeypatch.context() as patch:
        patch.setattr(lake.Store, "_put", dies)
        with pytest.raises(KeyboardInterrupt):
            copy.renew(folder, "erased-1", lambda *_: None)
    copy.bring(folder)  # as the next try does first
    renewed = {"0.txt": b"somebody, 0", "1.txt": b"somebody, 1"}
    assert {name: files(folder)[name] for name in renewed} == renewed
    copy.renew(folder, "erased-1", lambda *_: None)
    assert copied(copy, folder) == {*renewed}
    shutil.rmtree(folder)
    assert copy.bring(folder) == 2
    assert files(folder) == renewed


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
    part = next(night(project).glob("*/extract/part-*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    damage(store(project), part, bytes(content))
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
    archived = project.scores()
    leave(project)
    done = pruning.prune(project.context(SECOND), 1)
    assert FIRST in done.nights
    data, copy = project.settings.data_dir, store(project)
    assert copy.names(data / "lake" / NAME) == [str(SECOND.replace(month=7, day=1))]
    assert copy.names(data / "archive" / NAME) == [str(FIRST)]
    # A third machine erases an entity whose scores are in the copy of the archive.
    leave(project)
    gone = archived["entity"][3]
    told = forget(project.context(FIRST), gone, "officer", "request 7")
    leave(project)
    (run,) = done.runs
    archive = archiving.folder_of(project.context(FIRST), run, FIRST)
    assert copy.bring(archive.parent) == 1 + len(pruning.LEAVING)
    kept = pl.read_parquet(archive / archiving.file_of("risk_score")).sort("entity").select(archived.columns)
    renamed = archived.with_columns(pl.col("entity").replace(gone, told.pseudonym)).sort("entity")
    assert kept.equals(renamed)
    leave(project)
    assert audit.verify(project.context(SECOND), every_night=True).faults == ()
    copy.drop(archive.parent)
    leave(project)
    (fault,) = audit.verify(project.context(SECOND), every_night=True).faults
    assert "is not whole" in fault.what


def test_a_forgotten_entity_leaves_the_copy(project: Project) -> None:
    done = project.nightly()
    gone = project.scores()["entity"][3]
    leave(project)  # the night is in the copy alone
    cut_off = project.settings.data_dir / "lake" / NAME / "2020-01-31"
    damage(store(project), cut_off / "part", b"half a copy")
    assert forget(project.context(FIRST), gone, "officer", "request 7").left == (
        f"half a copy of lake/{NAME}/2020-01-31, which was cut off on another machine",
    )
    leave(project)
    assert store(project).bring(night(project)) > 5
    for path in night(project).rglob("*.parquet"):
        assert not pl.read_parquet(path).select((pl.col(pl.String) == gone).any()).transpose().to_series().any(), path
    assert copied(store(project), night(project)) == set(files(night(project)))
    found = reproduce(project.context(FIRST), done.run_id)
    assert not found.differences


def test_the_doctor_asks_the_storage(project: Project) -> None:
    project.nightly()
    leave(project)
    found = {one.subject: one for one in examine(project.settings, SECOND)}
    assert found["copy of the lake"].what == "answers, holds 1 dates"
    assert found[f"champion of {NAME}"].fine
    assert not (project.settings.data_dir / "registry").exists()
    nowhere = SecretStr("s3://nobody/x?scheme=http&region=eu-west-1&endpoint_override=127.0.0.1:9")
    gone = project.settings.model_copy(update={"lake": nowhere})
    assert not {one.subject: one for one in examine(gone, SECOND)}["copy of the lake"].fine


def test_an_address_that_is_none_is_refused(project: Project) -> None:
    wrong = project.settings.model_copy(update={"lake": SecretStr(f"sthree://tester:{SECRET}@bank")})
    with pytest.raises(ConfigError, match="METARISK_LAKE") as caught:
        replace(project, settings=wrong).nightly()
    assert SECRET not in str(caught.value)
