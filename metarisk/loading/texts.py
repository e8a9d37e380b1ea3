"""Bytes of a text file become UTF-8 that DuckDB reads: unpacked, decoded, or used where they lie."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from metarisk.domain import ConfigError, DataError

PACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
UNREADABLE = "\udcff"
"""Stands for each byte that the encoding does not know."""
_BLOCK = 2**20  # bytes of a read: 1 MiB keeps memory small and reads few
_ESCAPE = "metarisk.unreadable"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NAMES = {"utf-8-sig": "UTF-8", "utf-8": "UTF-8", "utf-16": "UTF-16", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16",
          "utf-32": "UTF-32", "cp1252": "Windows-1252"}  # fmt: skip
_WIDTHS = ("utf-16", "utf-32")
_WIDE = re.compile("[^\x00-\x7f\ud800-\udfff]")
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)  # noqa: S101
    return UNREADABLE * (error.end - error.start), error.end


codecs.register_error(_ESCAPE, _escape)


@dataclass(frozen=True)
class Text:
    """A text file, how its bytes are read, and what a pass over it saw."""

    path: Path
    encoding: str
    plain: Path
    """The same as UTF-8; what cannot be decoded or stored is a question mark there."""
    clean: bool
    """Whether there is no such byte."""
    breaks: int
    """Line feeds, and one for a last line without."""

    @property
    def encoding_name(self) -> str:
        """The encoding as people call it."""
        return _NAMES.get(self.encoding, self.encoding)

    @contextmanager
    def lines(self) -> Iterator[Iterator[str]]:
        """Lines with their ends, as they are; each unreadable byte is `UNREADABLE`."""
        with unpacked(self.path) as binary:
            text = io.TextIOWrapper(binary, encoding=self.encoding, errors=_ESCAPE, newline="")
            yield iter(text)
            text.detach()


def unusable(text: str) -> bool:
    """Whether there is a character in it that no warehouse stores: a NUL, or an unreadable byte."""
    return _UNUSABLE.search(text) is not None


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, without what packed them. Raises DataError where it is damaged."""
    opened = PACKED.get(path.suffix.lower())
    try:
        with opened(path) if opened else path.open("rb") as stream:
            yield stream
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name} is damaged or cut short ({error})", remedy="fetch or pack it again") from None


def open_text(path: Path, encoding: str | None, target: Path) -> Text:
    """Find the encoding over the whole file, and make UTF-8 of it.

    Args:
        path: the file; `.gz`, `.bz2` and `.xz` are unpacked.
        encoding: what somebody says it is; None: found out.
        target: where to write what has to be unpacked or decoded.

    Raises:
        ConfigError: no such encoding.
        DataError: a damaged archive.
    """
    chosen = _known(encoding) if encoding else _marked(path)
    if encoding and chosen in _WIDTHS:
        # Python decodes these with a mark only; without one, what the NULs show, or the order of most machines.
        marked = _marked(path) or ""
        chosen = marked if marked.startswith(str(chosen)) else f"{chosen}-le"
    seen = _scanned(path, chosen or "utf-8")
    # Text in Windows-1252 has next to no sequence that UTF-8 knows, and UTF-8 next to no byte that it does not.
    if chosen is None and seen.broken > seen.wide:
        chosen, seen = "cp1252", _scanned(path, "cp1252")
    chosen, clean = chosen or "utf-8", not seen.unusable
    in_place = chosen in ("utf-8", "utf-8-sig") and path.suffix.lower() not in PACKED
    if not (in_place and clean):
        with unpacked(path) as source, target.open("w", encoding="utf-8", newline="") as sink:
            decoder = codecs.getincrementaldecoder(chosen)(_ESCAPE)
            while block := source.read(_BLOCK):
                sink.write(_UNUSABLE.sub("?", decoder.decode(block)))
            sink.write(_UNUSABLE.sub("?", decoder.decode(b"", final=True)))
    return Text(path, chosen, path if in_place and clean else target, clean, seen.breaks)


def _known(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "a".encode(name)
    except (LookupError, ValueError):
        raise ConfigError(
            f"there is no encoding {encoding!r}",
            remedy="use utf-8, utf-16, cp1252, latin-1 or another name of Python's",
        ) from None
    return name


@dataclass
class _Seen:
    """What a pass over a file saw."""

    breaks: int = 0
    unusable: bool = False
    broken: int = 0
    """Bytes that the encoding does not know."""
    wide: int = 0
    """Characters beyond ASCII."""


def _scanned(path: Path, encoding: str) -> _Seen:
    seen, last = _Seen(), "\n"
    decoder = codecs.getincrementaldecoder(encoding)(_ESCAPE)
    with unpacked(path) as source:
        while True:
            block = source.read(_BLOCK)
            text = decoder.decode(block, final=not block)
            seen.breaks, last = seen.breaks + text.count("\n"), text[-1:] or last
            seen.unusable = seen.unusable or "\0" in text
            if not text.isascii():
                broken = text.count(UNREADABLE)
                seen.broken, seen.wide = seen.broken + broken, seen.wide + len(_WIDE.findall(text))
                seen.unusable = seen.unusable or unusable(text)
            if not block:
                break
    seen.breaks += last != "\n"
    return seen


def _marked(path: Path) -> str | None:
    """The encoding by the mark at the beginning, or by the NULs of UTF-16; None where neither is there."""
    with unpacked(path) as source:
        start = source.read(4096)
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    even, odd, half = start[0::2].count(0), start[1::2].count(0), len(start) // 2
    # Latin letters are every other byte NUL in UTF-16.
    if half and max(even, odd) > half / 2 and min(even, odd) < half / 10:
        return "utf-16-be" if even > odd else "utf-16-le"
    return None
