"""Files that are whole or not there: their hashes, what JSON files hold, and folders that appear by one rename."""

from __future__ import annotations

import codecs
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrefine.errors import IntegrityError, OutputError, SegrefineError

_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


@dataclass(frozen=True)
class FileRecord:
    """What a file must be: its SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """The record of a file as it lies on disk."""
        with path.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)

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
            raise IntegrityError(f"{path} is reached through a link; only files inside of {root} are read", hint=hint)
        if not path.is_file():
            raise IntegrityError(f"{path} is missing", hint=hint)
        if (size := path.stat().st_size) != self.size:
            raise IntegrityError(f"{path} should have {self.size} bytes, but has {size}", hint=hint)
        try:
            found = FileRecord.of(path)
        except OSError as error:
            raise IntegrityError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
        if found != self:
            raise IntegrityError(f"{path} was altered: its SHA-256 is not the recorded one", hint=hint)
        return path


def is_safe(relative: str) -> bool:
    """Whether a recorded path is a plain one: relative, forward slashes, no empty, ``.`` or ``..`` part."""
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
        raise error_class(f"cannot read {path} as JSON: {error}", hint=hint) from error


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
                content = each.read_bytes()
                text = content.decode(json.detect_encoding(content))
                (copy / each.name).write_text(text, encoding="utf-8", newline="")
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
        raise error_class(f"{path} holds no JSON object", hint=hint)
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
def locked(folder: Path) -> Iterator[None]:
    """A context that one process at a time can be in, for a folder that exists; waits for its turn."""
    import fcntl  # POSIX only; reading a bundle does without it

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A context with a new empty folder beside `target`, to be filled and renamed; what is left at the end is removed.

    A killed process leaves its folder behind, under a name that nothing reads. The next writer of the same target
    removes it: the lock that a living writer holds on its folder tells the two apart.

    Raises:
        OutputError: no folder can be made there.
    """
    prefix = f".{target.name}.partial-"
    with output_errors(target):
        for leftover in target.parent.glob(glob.escape(prefix) + "*"):
            if not _is_locked(leftover):
                shutil.rmtree(leftover)
        folder = target.with_name(prefix + secrets.token_hex(4))
        folder.mkdir()
    with locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_locked(folder: Path) -> bool:
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def sync(*paths: Path) -> None:
    """Brings files and folders (a folder's list of names, not what is in it) to the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
