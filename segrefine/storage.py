"""Files that are whole or not there: their hashes, what JSON files hold, and folders that appear by one rename."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrefine.errors import IntegrityError, OutputError, SegrefineError

_BLOCK = 1 << 20
LOCK = ".lock"
"""The file in a folder that is locked while one process works in it."""
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


@dataclass(frozen=True)
class FileRecord:
    """Expected SHA-256 of a file in hexadecimal, and its size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """The record of a file as it lies on disk."""
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
        return cls(digest.hexdigest(), size)

    def check(self, root: Path, relative: str, *, hint: str, links: bool = False) -> Path:
        """Check that `root / relative` is that file, and return its path.

        Args:
            root: the folder.
            relative: the path below it, with forward slashes.
            hint: what to do if the file is another one.
            links: whether the file may be a link, or lie behind one, as in the cache of a model hub. The content must
                still be the recorded one.

        Raises:
            IntegrityError: the file is missing, altered, or behind a link that is not allowed; the message names it.
        """
        path = root / relative
        plain = os.path.normpath(os.path.join(os.path.realpath(root), relative))
        if not links and os.path.realpath(path) != plain:
            message = f"it is reached through a link; only files inside of {root} are read"
            raise IntegrityError(message, subject=path, hint=hint)
        if not path.is_file():
            raise IntegrityError("it is missing", subject=path, hint=hint)
        if (size := path.stat().st_size) != self.size:
            raise IntegrityError(subject=path, expected=f"{self.size} bytes", got=size, hint=hint)
        try:
            found = FileRecord.of(path)
        except OSError as error:
            raise IntegrityError(f"it cannot be read: {error.strerror}", subject=path, hint=hint) from error
        if found != self:
            raise IntegrityError("it was altered: its SHA-256 is not the recorded one", subject=path, hint=hint)
        return path


def is_safe(relative: str) -> bool:
    """Return whether a recorded path is a plain one: relative, forward slashes, no empty, ``.`` or ``..`` part."""
    return "\\" not in relative and "\0" not in relative and not {"", ".", ".."} & set(relative.split("/"))


def read_json(path: Path, error_class: type[SegrefineError], *, hint: str) -> Any:
    """Read a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        SegrefineError: the file cannot be read. The error has the given class and hint.
    """
    try:
        content = path.read_bytes()
        return json.loads(content.decode(json.detect_encoding(content)))  # programs on Windows write the marks
    except (OSError, ValueError, RecursionError) as error:
        raise error_class(f"it cannot be read as JSON: {error}", subject=path, hint=hint) from error


def read_text(path: Path, *, errors: str = "strict") -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with the byte order mark that programs on Windows write.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such text, and `errors` is "strict".
    """
    content = path.read_bytes()
    encoding = json.detect_encoding(content) if content.startswith(_MARKS) else "utf-8"
    return content.decode(encoding, errors)


@contextmanager
def readable_texts(folder: Path) -> Iterator[Path]:
    """A context with the folder, or a copy of it whose JSON and text files lack byte order marks.

    Libraries that read a folder themselves refuse these marks. The copy links to all other files.
    """
    files = list(folder.iterdir()) if folder.is_dir() else []
    texts = [each for each in files if each.suffix in (".json", ".txt") and each.is_file()]
    marked = [each for each in texts if each.read_bytes()[:4].startswith(_MARKS)]
    if not marked:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="segrefine-") as name:
        copy = Path(name)
        for each in files:
            if each in marked:
                (copy / each.name).write_text(read_text(each), encoding="utf-8", newline="")
            else:
                (copy / each.name).symlink_to(each.resolve())
        yield copy


def read_json_object(path: Path, error_class: type[SegrefineError], *, hint: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        SegrefineError: it cannot be read, or holds something else; of the class and with the hint that are given.
    """
    content = read_json(path, error_class, hint=hint)
    if not isinstance(content, dict):
        raise error_class("it holds no JSON object", subject=path, hint=hint)
    return content


@contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """A context in which the system's refusals to write become an `OutputError` that names the target."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space, or choose another disk" if full else "choose a folder that exists and is writable"
        raise OutputError(f"cannot write {target}: {reason}", hint=hint) from error


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """A context that one process at a time can be in, for a folder that exists.

    Args:
        folder: what is locked, by a file in it that stays there.
        wait: whether to wait for another process; False raises BlockingIOError at once.
    """
    with _lock(folder / LOCK, wait=wait):
        yield


@contextmanager
def _lock(file: Path, *, wait: bool) -> Iterator[None]:
    from filelock import FileLock, SoftFileLock, Timeout  # reading a bundle does without it

    lock = FileLock(file, timeout=-1 if wait else 0)
    if not isinstance(lock, SoftFileLock):  # such a lock, for systems that lock no files, is held while its file exists
        file.touch()  # raises what keeps it from being made, where filelock would wait for ever
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(f"another process holds {file}") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A context with a new empty folder beside `target`, to be filled and renamed; what is left at the end is removed.

    A killed process leaves its folder behind, under a name that nothing reads. The next writer of the same target
    removes it: the lock that a living writer holds, on a file beside its folder, tells the two apart.

    Raises:
        OutputError: no folder can be made there.
    """
    prefix = f".{target.name}.partial-"
    folder = target.with_name(prefix + secrets.token_hex(4))
    file = folder.with_name(folder.name + LOCK)
    with ExitStack() as stack:
        with output_errors(target):
            _remove_leftovers(target.parent, prefix)
            stack.callback(_unlink, file)
            stack.enter_context(_lock(file, wait=True))  # before the folder is there: nobody can take it for a leftover
            folder.mkdir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _remove_leftovers(place: Path, prefix: str) -> None:
    """Remove folders whose names begin with `prefix` and whose writers are gone."""
    for name in {name.removesuffix(LOCK) for name in os.listdir(place) if name.startswith(prefix)}:
        folder, file = place / name, place / (name + LOCK)
        if not folder.is_dir():  # its writer is about to make it
            continue
        try:
            with _lock(file, wait=False):
                shutil.rmtree(folder)
        except BlockingIOError:
            continue
        _unlink(file)


def _unlink(file: Path) -> None:
    with suppress(OSError):  # a lock file that stays is in nobody's way
        file.unlink()


def sync(*paths: Path) -> None:
    """Bring files and folders (a folder's list of names, not what is in it) to the disk.

    Windows writes a folder's list by itself, and syncs only files that are open for writing.
    """
    windows = os.name == "nt"
    for path in paths:
        if windows and path.is_dir():
            continue
        handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
