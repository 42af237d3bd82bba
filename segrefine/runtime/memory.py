"""Cache of engine outputs, sample by sample, so that nothing is computed twice.

Most of what a refinement computes does not depend on the mask: the latents, the texts, the predictions without a mask,
the features of the original. A `Memory` keeps these outputs by what went in, so that another mask on the same image, or
another stroke of the same mask, only pays for what is new.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines import Closing, Engine
from segrefine.errors import SettingsError

BUDGET = 512 * 2**20
"""Bytes that the memory of one image may take."""
REMEMBERED = ("text_encoder", "text_encoder_2", "vae_encoder", "unet", "unet_features", "unet_attention")
"""Components whose outputs are worth keeping: they are slow, and may not depend on the mask."""
Row = Mapping[str, NDArray[Any]]
"""The outputs of one sample by name, without the batch axis."""


@dataclass(kw_only=True)
class _Kept:
    row: Row
    size: int
    used: float


class Memory:
    """Outputs of engines by what went in. The least recently used go first. Several threads may share one.

    Attributes:
        budget: most bytes that are kept.
        lifetime: seconds after which an output that nobody used is forgotten; None: never.
        size: bytes that are kept now.
        hits: samples that were known.
        misses: samples that had to be computed.
    """

    def __init__(self, budget: int = BUDGET, lifetime: float | None = None) -> None:
        """Raises SettingsError where the budget or the lifetime is negative."""
        for name, value in (("budget", budget), ("lifetime", lifetime or 0)):
            if value < 0:
                raise SettingsError(subject=name, expected="0 or more", got=value)
        self.budget, self.lifetime = budget, lifetime
        self.size = self.hits = self.misses = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The outputs that are known."""
        now, found = time.monotonic(), dict[bytes, Row]()
        with self._lock:
            self._forget_old(now)
            for key in keys:
                if kept := self._kept.get(key):
                    kept.used = now
                    self._kept.move_to_end(key)
                    found[key] = kept.row
                self.hits += kept is not None
                self.misses += kept is None
        return found

    def keep(self, rows: Mapping[bytes, Row]) -> None:
        """Remember outputs, as far as the budget goes."""
        now = time.monotonic()
        with self._lock:
            for key, row in rows.items():
                size = sum(values.nbytes for values in row.values())
                if size <= self.budget and key not in self._kept:
                    self._kept[key] = _Kept(row=row, size=size, used=now)
                    self.size += size
            while self.size > self.budget:
                self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.size = 0

    def _forget_old(self, now: float) -> None:
        while self.lifetime is not None and self._kept:
            oldest = next(iter(self._kept))
            if now - self._kept[oldest].used <= self.lifetime:
                return
            self._drop(oldest)

    def _drop(self, key: bytes) -> None:
        self.size -= self._kept.pop(key).size


class RememberingEngine(Closing):
    """An engine that computes only the samples of a batch that its memory does not know.

    Attributes:
        spec: what the engine takes and gives; every input and output has the batch as its first axis.
    """

    def __init__(self, engine: Engine, memory: Memory) -> None:
        self._engine, self._memory, self.spec = engine, memory, engine.spec

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`."""
        count = len(next(iter(feeds.values())))
        keys = [self._key(feeds, number, only) for number in range(count)]
        known = self._memory.find(keys)
        new = {key: number for number, key in enumerate(keys) if key not in known}
        if len(new) == count:
            outputs = self._engine(feeds, only=only)
            self._memory.keep({key: _row(outputs, number) for key, number in new.items()})
            return outputs
        if new:
            asked = list(new.values())
            outputs = self._engine({name: values[asked] for name, values in feeds.items()}, only=only)
            rows = {key: _row(outputs, place) for place, key in enumerate(new)}
            self._memory.keep(rows)
            known.update(rows)
        return {name: np.stack([known[key][name] for key in keys]) for name in known[keys[0]]}

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()

    def _key(self, feeds: Mapping[str, NDArray[Any]], number: int, only: str | None) -> bytes:
        """Return the key of one sample: the component, the wanted output, and all inputs."""
        digest = hashlib.blake2b(f"{self.spec.name} {only}".encode(), digest_size=24)
        for name in sorted(feeds):
            values = np.ascontiguousarray(feeds[name][number])
            digest.update(f"{name} {values.dtype} {values.shape} ".encode())
            digest.update(values.data if values.ndim else values.tobytes())
        return digest.digest()


def remember(engines: Mapping[str, Engine], memory: Memory) -> dict[str, Engine]:
    """The engines, of which the slow ones share a memory."""
    return {
        name: RememberingEngine(engine, memory) if name in REMEMBERED else engine for name, engine in engines.items()
    }


def _row(outputs: Mapping[str, NDArray[Any]], number: int) -> Row:
    """One sample of a batch, copied, so that the batch itself can go."""
    return {name: values[number].copy() for name, values in outputs.items()}
