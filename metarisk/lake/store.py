"""A copy of folders on object storage: whole there before the warehouse names what is in them.

Objects are the files under the same names. A listing of their SHA-256 sums is written after them and is what is read
first, so that half a copy is never taken for a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from metarisk.domain import ConfigError, DataError, Progress
from metarisk.folders import MANIFEST, scratch, sha256, whole_files

_LISTINGS = ".listings"
_LOCAL = fs.LocalFileSystem()


@dataclass(frozen=True)
class Store:
    """The copy of one data folder. Its methods raise DataError where the storage does not answer or refuses."""

    root: Path
    """The data folder."""
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
        """Copy what `folder` has and its copy has not, then write the listing `name`.

        Returns:
            Number of files that were copied.
        """
        with self._asked(folder):
            return self._write(folder, name, _sums(folder), self._listed(folder), progress)

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
                    source = f"{self.place(folder)}/{relative}"
                    fs.copy_files(source, str(part), source_filesystem=self.files, destination_filesystem=_LOCAL)
                    if (found := sha256(part)) != listed[relative]:
                        raise DataError(
                            f"{source} is damaged: SHA-256 {found[:12]} is not {listed[relative][:12]} of its listing",
                            remedy="restore the object from the storage's versions, or delete .listings beside it and "
                            "run the night (of a model: the weekly) again, which copies all anew",
                        )
                    final.parent.mkdir(parents=True, exist_ok=True)
                    part.replace(final)
                came += 1
        return came

    def renew(self, folder: Path, name: str, progress: Progress) -> None:
        """Copy what has changed under the listing `name`, and delete what `folder` no longer has.

        Killed meanwhile it leaves half a copy, which is none, so that the next try begins with what `folder` has.
        """
        with self._asked(folder):
            here, there = _sums(folder), self._listed(folder)
            if here != there:
                self._delete(f"{self.place(folder)}/{_LISTINGS}")
                self._write(folder, name, here, there, progress)
            for info in self.files.get_file_info(
                fs.FileSelector(self.place(folder), allow_not_found=True, recursive=True)
            ):
                relative = info.path.removeprefix(f"{self.place(folder)}/")
                if info.type == fs.FileType.File and relative not in here and not relative.startswith(_LISTINGS):
                    self.files.delete_file(info.path)

    def drop(self, folder: Path) -> None:
        """Delete the copy of a folder, its listings first."""
        with self._asked(folder):
            self._delete(f"{self.place(folder)}/{_LISTINGS}")
            self._delete(self.place(folder))

    def names(self, parent: Path) -> list[str]:
        """Names of the folders within `parent` of which there is a copy, or half of one; sorted."""
        with self._asked(parent):
            found = self.files.get_file_info(fs.FileSelector(self.place(parent), allow_not_found=True))
        return sorted(one.base_name for one in found if one.type == fs.FileType.Directory)

    def place(self, folder: Path) -> str:
        """Where the copy of a folder is, without credentials."""
        return f"{self.base}/{folder.relative_to(self.root).as_posix()}"

    def _write(
        self, folder: Path, name: str, here: Mapping[str, str], there: Mapping[str, str], progress: Progress
    ) -> int:
        """Copy files whose sum `here` is not the one `there`, then write the listing; how many files."""
        new = [relative for relative, total in here.items() if there.get(relative) != total]
        for number, relative in enumerate(new):
            self._put(folder / relative, f"{self.place(folder)}/{relative}")
            progress(number + 1, len(new), "storing")
        with scratch(folder) as private:
            listing = private / "listing.json"
            listing.write_text(json.dumps(here, indent=1, sort_keys=True), encoding="utf-8")
            self._put(listing, f"{self.place(folder)}/{_LISTINGS}/{name}.json")
        return len(new)

    def _listed(self, folder: Path) -> dict[str, str]:
        """SHA-256 of each file that a listing names. DataError where one is named that is not below the folder."""
        selector = fs.FileSelector(f"{self.place(folder)}/{_LISTINGS}", allow_not_found=True)
        listed: dict[str, str] = {}
        for info in sorted(self.files.get_file_info(selector), key=lambda info: str(info.path)):
            with self.files.open_input_stream(info.path) as stream:
                listed |= json.loads(stream.read())
        for relative in listed:
            if Path(relative).is_absolute() or ".." in Path(relative).parts:
                raise DataError(
                    f"a listing of {self.place(folder)} names {relative!r}, which is not in that folder",
                    remedy="see who else may write there, and restore the listing from the storage's versions",
                )
        return listed

    def _delete(self, path: str) -> None:
        if self.files.get_file_info(path).type != fs.FileType.NotFound:
            self.files.delete_dir(path)

    def _put(self, source: Path, target: str) -> None:
        if isinstance(self.files, fs.LocalFileSystem):
            self.files.create_dir(str(Path(target).parent), recursive=True)
        fs.copy_files(str(source), target, source_filesystem=_LOCAL, destination_filesystem=self.files)

    @contextmanager
    def _asked(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"object storage failed at {self.place(folder)}: {str(error)[:200]}",
                remedy="check METARISK_LAKE, the network, bucket and credentials, then run again: nothing that is "
                "there is copied twice",
            ) from error


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder, but of those that somebody is writing, or removes meanwhile."""
    sums: dict[str, str] = {}
    for path in whole_files(folder):
        with suppress(FileNotFoundError):
            sums[path.relative_to(folder).as_posix()] = sha256(path)
    return sums
