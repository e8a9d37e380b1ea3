"""A copy of the lake on object storage: what a run made is there, whole, before it is published.

Objects are the lake's files under the same names. A listing of their SHA-256 sums is written after them and is what is
read first, so that half a copy is never taken for a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from metarisk.domain import ConfigError, DataError, Progress
from metarisk.lake.folders import MANIFEST, SCRATCH, scratch, sha256

_LISTINGS = ".listings"
_LOCAL = fs.LocalFileSystem()


@dataclass(frozen=True)
class Store:
    """The copy of one lake. Its methods raise DataError where the storage does not answer or refuses."""

    root: Path
    """The local lake."""
    files: fs.FileSystem
    base: str
    """Path of the copy within `files`; it never holds credentials."""

    @classmethod
    def open(cls, uri: str, root: Path) -> Store:
        """The copy at `s3://BUCKET/PREFIX`, or at any other URI that `pyarrow.fs` knows. Raises ConfigError if none."""
        try:
            files, base = fs.FileSystem.from_uri(uri)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ConfigError(
                f"METARISK_LAKE is no address of object storage ({type(error).__name__})",
                remedy="write s3://BUCKET/PREFIX, with ?region=... or ?endpoint_override=... where need be",
            ) from None
        return cls(root, files, base.rstrip("/"))

    def keep(self, folder: Path, name: str, progress: Progress) -> int:
        """Copy what `folder` of the lake has and its copy has not, then write the listing `name`.

        Returns:
            Number of files that were copied.
        """
        with self._asked(folder):
            there, here = self._listed(folder), {}
            for path in sorted(path for path in folder.rglob("*") if path.is_file() and not _private(path, folder)):
                here[path.relative_to(folder).as_posix()] = sha256(path)
            new = [relative for relative, total in here.items() if there.get(relative) != total]
            for number, relative in enumerate(new):
                self._put(folder / relative, f"{self._path(folder)}/{relative}")
                progress(number + 1, len(new), "storing")
            with scratch(folder) as private:
                listing = private / "listing.json"
                listing.write_text(json.dumps(here, indent=1, sort_keys=True), encoding="utf-8")
                self._put(listing, f"{self._path(folder)}/{_LISTINGS}/{name}.json")
        return len(new)

    def bring(self, folder: Path) -> int:
        """Put back every file of `folder` that is missing or damaged, each whole, manifests after what they seal.

        Returns:
            Number of files that came.

        Raises:
            DataError: also where an object is not what its listing says.
        """
        came = 0
        with self._asked(folder):
            listed = self._listed(folder)
            for relative in sorted(listed, key=lambda relative: (relative.endswith(MANIFEST), relative)):
                final = folder / relative
                if final.is_file() and sha256(final) == listed[relative]:
                    continue
                with scratch(folder) as private:
                    part = private / "part"
                    source = f"{self._path(folder)}/{relative}"
                    fs.copy_files(source, str(part), source_filesystem=self.files, destination_filesystem=_LOCAL)
                    if (found := sha256(part)) != listed[relative]:
                        raise DataError(
                            f"{source} is damaged: SHA-256 {found[:12]} is not {listed[relative][:12]} of its listing",
                            remedy="restore the object from the storage's versions, or publish the night again",
                        )
                    final.parent.mkdir(parents=True, exist_ok=True)
                    part.replace(final)
                came += 1
        return came

    def renew(self, folder: Path, name: str, progress: Progress) -> None:
        """Copy what has changed, and delete what `folder` no longer has, with every listing but the new one, `name`."""
        self.keep(folder, name, progress)
        with self._asked(folder):
            path = self._path(folder)
            listings = self.files.get_file_info(fs.FileSelector(f"{path}/{_LISTINGS}"))
            for info in listings:
                if info.base_name != f"{name}.json":
                    self.files.delete_file(info.path)
            kept = {f"{path}/{relative}" for relative in self._listed(folder)} | {f"{path}/{_LISTINGS}/{name}.json"}
            for info in self.files.get_file_info(fs.FileSelector(path, recursive=True)):
                if info.type == fs.FileType.File and info.path not in kept:
                    self.files.delete_file(info.path)

    def drop(self, folder: Path) -> None:
        """Delete the copy of a folder, its listings first."""
        with self._asked(folder):
            for path in (f"{self._path(folder)}/{_LISTINGS}", self._path(folder)):
                if self.files.get_file_info(path).type != fs.FileType.NotFound:
                    self.files.delete_dir(path)

    def dates(self, portfolio: str) -> list[date]:
        """Dates of which a portfolio has a copy, oldest first."""
        folder = self.root / portfolio
        with self._asked(folder):
            found = self.files.get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True))
        return sorted(date.fromisoformat(one.base_name) for one in found if one.type == fs.FileType.Directory)

    def _listed(self, folder: Path) -> dict[str, str]:
        """SHA-256 of each file that a listing names."""
        selector = fs.FileSelector(f"{self._path(folder)}/{_LISTINGS}", allow_not_found=True)
        listed: dict[str, str] = {}
        for info in sorted(self.files.get_file_info(selector), key=lambda info: str(info.path)):
            with self.files.open_input_stream(info.path) as stream:
                listed |= json.loads(stream.read())
        return listed

    def _put(self, source: Path, target: str) -> None:
        if isinstance(self.files, fs.LocalFileSystem):
            self.files.create_dir(str(Path(target).parent), recursive=True)
        fs.copy_files(str(source), target, source_filesystem=_LOCAL, destination_filesystem=self.files)

    def _path(self, folder: Path) -> str:
        return f"{self.base}/{folder.relative_to(self.root).as_posix()}"

    @contextmanager
    def _asked(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"object storage failed at {self._path(folder)}: {str(error)[:200]}",
                remedy="check METARISK_LAKE, the network, bucket and credentials, then run again: nothing that is "
                "there is copied twice",
            ) from error


def _private(path: Path, folder: Path) -> bool:
    return any(part.startswith(SCRATCH) for part in path.relative_to(folder).parts)
