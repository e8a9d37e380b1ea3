"""The registry gives back what was registered, or refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil

import pytest

from metarisk import folders, registry
from metarisk.domain import ModelError

FILES = {"model.json": b"{}", "state.safetensors": bytes(range(256)), "empty": b""}
ABOUT = {"recipe": "map_head", "as_of": "2023-03-15"}


@pytest.fixture
def saved(tmp_path):
    model_id, folder = registry.save(tmp_path, "loans", FILES, ABOUT)
    return tmp_path, model_id, folder


def refused(root, model_id, *, what):
    with pytest.raises(ModelError, match=rf"portfolio loans: model {model_id}.*{what}.*Remedy: restore"):
        registry.load(root, "loans", model_id)


def test_it_gives_back_what_was_saved(saved):
    root, model_id, folder = saved
    assert folder == root / "loans" / model_id
    assert registry.load(root, "loans", model_id) == FILES


def test_the_id_is_the_hash_of_a_manifest_that_holds_the_hash_of_every_file(saved):
    _, model_id, folder = saved
    manifest = (folder / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest().startswith(model_id)
    assert json.loads(manifest)["files"] == {n: hashlib.sha256(c).hexdigest() for n, c in FILES.items()}
    assert json.loads(manifest)["about"] == ABOUT


def test_the_same_content_is_the_same_id_and_is_written_once(saved):
    root, model_id, folder = saved
    before = (folder / "model.json").stat().st_mtime_ns
    again, _ = registry.save(root, "loans", dict(reversed(FILES.items())), ABOUT)
    assert again == model_id
    assert (folder / "model.json").stat().st_mtime_ns == before
    assert [path.name for path in (root / "loans").iterdir()] == [model_id]


@pytest.mark.parametrize(
    ("portfolio", "files", "about"),
    [
        ("cards", FILES, ABOUT),
        ("loans", FILES | {"empty": b"x"}, ABOUT),
        ("loans", {**FILES, "more": b""}, ABOUT),
        ("loans", FILES, ABOUT | {"as_of": "2023-03-16"}),
    ],
)
def test_other_content_is_another_id(saved, portfolio, files, about):
    root, model_id, _ = saved
    assert registry.save(root, portfolio, files, about)[0] != model_id


@pytest.mark.parametrize("name", ["model.json", "state.safetensors"])
def test_a_swapped_byte_is_refused(saved, name):
    root, model_id, folder = saved
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    refused(root, model_id, what=f"{name} changed")


def test_an_edited_manifest_is_refused_before_any_file_that_it_names_is_read(saved):
    root, model_id, folder = saved
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../../secret"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
    refused(root, model_id, what="manifest.json changed")


def test_a_file_and_its_hash_exchanged_together_are_refused(saved):
    root, model_id, folder = saved
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "model.json").write_bytes(b"other")
    manifest["files"]["model.json"] = hashlib.sha256(b"other").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
    refused(root, model_id, what="manifest.json changed")


@pytest.mark.parametrize("gone", ["manifest.json", "model.json"])
def test_a_missing_file_is_refused(saved, gone):
    root, model_id, folder = saved
    (folder / gone).unlink()
    refused(root, model_id, what="cannot be read")


def test_a_model_that_is_not_there_is_refused(tmp_path):
    refused(tmp_path, "0123456789abcdef", what="cannot be read")


@pytest.mark.parametrize("written", range(len(FILES) + 1))
def test_a_save_that_died_leaves_nothing_that_looks_whole_and_the_next_one_repairs_it(tmp_path, monkeypatch, written):
    class Killed(BaseException):
        pass

    count = 0

    def fsync(descriptor):
        nonlocal count
        count += 1
        if count > written:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(folders.os, "fsync", fsync)
        registry.save(tmp_path, "loans", FILES, ABOUT)
    assert all(path.name.startswith(".") for path in (tmp_path / "loans").iterdir())
    model_id, _ = registry.save(tmp_path, "loans", FILES, ABOUT)
    assert registry.load(tmp_path, "loans", model_id) == FILES


def test_a_save_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        registry.save(tmp_path, "loans", FILES, ABOUT)
    assert list((tmp_path / "loans").iterdir()) == []


@pytest.mark.parametrize("damaged", ["manifest.json", "model.json"])
def test_a_torn_or_damaged_folder_is_replaced(saved, damaged):
    root, model_id, folder = saved
    (folder / damaged).write_bytes(b"")
    (folder / "stray").write_bytes(b"")
    registry.save(root, "loans", FILES, ABOUT)
    assert registry.load(root, "loans", model_id) == FILES
    assert not (folder / "stray").exists()


def test_a_save_that_was_overtaken_accepts_the_other_ones_folder(tmp_path, monkeypatch):
    # another process finishes the same model between the check and the rename
    elsewhere = tmp_path / "elsewhere"
    model_id, done = registry.save(elsewhere, "loans", FILES, ABOUT)
    fsync = folders.os.fsync

    def overtaken(descriptor):
        fsync(descriptor)
        final = tmp_path / "root" / "loans" / model_id
        if not final.exists():
            shutil.copytree(done, final)

    monkeypatch.setattr(folders.os, "fsync", overtaken)
    assert registry.save(tmp_path / "root", "loans", FILES, ABOUT)[0] == model_id
    assert registry.load(tmp_path / "root", "loans", model_id) == FILES
    assert [path.name for path in (tmp_path / "root" / "loans").iterdir()] == [model_id]
