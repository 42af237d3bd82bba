"""The kernels that TensorRT-RTX compiled for this GPU, kept in a file so that the next start need not compile again."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

from segrefine.errors import EngineWarning
from segrefine.storage import output_errors, staging_folder, sync

SUFFIX = ".cache"
_AGAIN = "TensorRT-RTX compiles its kernels again"


class RuntimeCache:
    """The cache file of one engine on one kind of GPU.

    The file lies beside the engine. Its name has the GPU and the CUDA version of the driver: compiled kernels run
    nowhere else. Its first line is a JSON object with the key of the engine's recipe and a hash of the rest.

    Args:
        engine: the engine's file.
        key: of the engine's recipe.
        machine: the GPU and the driver, such as "sm89-cuda13.0".
    """

    def __init__(self, engine: Path, key: str, machine: str) -> None:
        self.path = engine.with_suffix(f".{machine}{SUFFIX}")
        self._key = key

    def read(self) -> bytes | None:
        """The compiled kernels; None if there are none for this engine. A damaged file is an `EngineWarning`."""
        try:
            header, _, content = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"cannot be read: {error.strerror or error}")
            return None
        try:
            said = json.loads(header)
            key, digest = said["key"], said["sha256"]
        except (ValueError, KeyError, TypeError):
            key, digest = self._key, None
        if key != self._key:  # of an engine that was built before this one
            return None
        if digest != hashlib.sha256(content).hexdigest():
            self._warn("is damaged")
            return None
        return content

    def write(self, content: bytes) -> None:
        """Keep compiled kernels. A folder that cannot be written to is an `EngineWarning`, once in each process."""
        header = json.dumps({"key": self._key, "sha256": hashlib.sha256(content).hexdigest()})
        try:
            with output_errors(self.path), staging_folder(self.path) as staging:
                written = staging / self.path.name
                written.write_bytes(header.encode() + b"\n" + content)
                sync(written)
                written.replace(self.path)
        except OSError as error:
            self._warn(f"cannot be written ({error}), so that every start compiles")

    def reject(self) -> None:
        """Warn that TensorRT-RTX itself refused what the file has."""
        self._warn("was refused by TensorRT-RTX")

    def _warn(self, problem: str) -> None:
        warnings.warn(f"the runtime cache {self.path} {problem}; {_AGAIN}", EngineWarning, stacklevel=4)
