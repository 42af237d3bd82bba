"""An image that kills whoever reads it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def deadly(file: Path, *, victims: int | None = None) -> Iterator[list[int]]:
    """A context in which the file is a pipe, and the processes that open it are killed; gives those.

    Args:
        file: an image.
        victims: after so many the image is what it was; None for never.
    """
    content, killed, stop = file.read_bytes(), list[int](), threading.Event()
    file.unlink()
    os.mkfifo(file)

    def kill() -> None:
        while not stop.is_set() and len(killed) != victims:
            try:
                pipe = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads
                time.sleep(0.002)
                continue
            while (found := _reader(file, killed)) is None and not stop.is_set():
                time.sleep(0.002)  # it is about to have the file; while the pipe is open it waits for bytes
            if found is not None:
                if len(killed) + 1 == victims:
                    file.unlink()
                    file.write_bytes(content)
                killed.append(found)
                os.kill(found, signal.SIGKILL)
            os.close(pipe)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def _reader(file: Path, but: list[int]) -> int | None:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) in (os.getpid(), *but):
            continue
        try:
            if any(os.readlink(handle) == str(file) and _reads(handle) for handle in (folder / "fd").iterdir()):
                return int(folder.name)
        except OSError:
            continue  # it has ended
    return None


def _reads(handle: Path) -> bool:
    """Whether a handle is open for reading: a child of this process has its writing end, between fork and exec."""
    lines = (handle.parents[1] / "fdinfo" / handle.name).read_text().splitlines()
    flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    return flags & os.O_ACCMODE != os.O_WRONLY
