"""A folder that is watched: images are refined as they come, each once, and never before they are whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from segrefine.batch.journal import Entry, Journal, claimed, summarise
from segrefine.batch.options import agree_on_options, describe_options
from segrefine.batch.run import Pool
from segrefine.batch.worker import Job
from segrefine.datasets.files import MaskFiles
from segrefine.datasets.images_alone import ImagesAlone
from segrefine.datasets.items import Item
from segrefine.datasets.label_maps import LabelMaps
from segrefine.datasets.notation import Place
from segrefine.datasets.opening import check_options, find_notation, place_of
from segrefine.datasets.single_masks import SingleMasks
from segrefine.errors import MaskError, SegrefineError, SettingsError

State = tuple[tuple[str, int, int], ...]
"""Path, size in bytes and time of change of each file that an image is read from."""
_PATIENCE = 30.0
"""Seconds after which an image without a mask is worth a word."""


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """Timing of the looks at a watched folder.

    Attributes:
        interval: seconds between two looks.
        settle: seconds for which the files of an image must not change before they are read.
        stop_after: seconds without anything to do after which the watch ends; None for never.

    Raises:
        SettingsError: a number is negative.
    """

    interval: float = 1.0
    settle: float = 2.0
    stop_after: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < float("inf"):
                raise SettingsError(subject=name, expected="seconds, 0 or more", got=value)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Callbacks of a watched folder.

    Attributes:
        done: with each image that is finished or has failed.
        warn: with a sentence on what waits or is wrong.
    """

    done: Callable[[Entry], None]
    warn: Callable[[str], None]


def watch_folder(job: Job, *, workers: int, rhythm: Rhythm, listener: Listener) -> dict[str, Any]:
    """Refine the images of a folder as they come, until Ctrl-C or until nothing came for long.

    Each result appears as a whole. After a kill at any moment the next watch does what is missing, and nothing twice.
    An image that failed is tried again when one of its files changes.

    Args:
        job: what to do; its data set may grow.
        workers: processes.
        rhythm: when the folder is looked at.
        listener: is told what happens.

    Returns:
        How the watch went: as a batch's manifest, and `waiting`, the names of images without a mask.

    Raises:
        MaskError: nobody says what the masks show, or a folder is missing.
        OutputError: the output folder cannot be written to, is another run's, or holds results of other options.
        SegrefineError: the engines do not open; see `Refiner.from_bundle`.
    """
    began = time.perf_counter()
    job = replace(job, notation=choose_notation(place_of(job.source, job.images, job.reading)), growing=True)
    with claimed(job.output, resume=True):
        watcher = _Watcher(job, rhythm, listener)
        agree_on_options(job, describe_options(job), begun=watcher.has_results())
        journal = Journal(job.output)
        try:
            with Pool(job, workers) as pool:
                _watch(watcher, pool, journal)
        except KeyboardInterrupt:
            watcher.look(journal)  # notes a result that was written just before, and not told of any more
            listener.warn("stopped; the next watch of this folder does what is missing")
        job.open_dataset().finish(job.output)
        run = {"seconds": time.perf_counter() - began, "workers": workers, "waiting": watcher.waiting}
        return summarise(list(journal.entries.values()), run)


def choose_notation(place: Place) -> type[MaskFiles]:
    """The notation of a watched folder.

    Options and JSON files say it before the first file is there. Otherwise a file must be there that says it.

    Raises:
        MaskError: nobody says what the masks show.
        SettingsError: an option is of another notation.
    """
    found: type[MaskFiles] | None
    if place.options.zero_shot:
        found = ImagesAlone
    elif place.labels or place.options.label:
        found = SingleMasks
    elif place.has_classes:
        found = LabelMaps
    elif (found := _detect_notation(place)) is None:
        hint = "--label TEXT names all of them; --classes LIST reads label maps; --zero-shot needs no masks"
        raise MaskError(f"nobody says what the masks in {place.masks} show", hint=hint)
    check_options(place, [found])
    return found


def _detect_notation(place: Place) -> type[MaskFiles] | None:
    """The notation that the files of a place say without doubt, with all masks of an image in one file; None for none.

    Masks of an image in several files, such as one for each class, cannot be watched: more of them may come.
    """
    found = find_notation(place)
    return found if found and issubclass(found, MaskFiles) and found.is_unmistakable else None


def _watch(watcher: _Watcher, pool: Pool, journal: Journal) -> None:
    """Look, refine, and look again, until nothing came for long."""
    while True:
        ready = watcher.look(journal)
        for entry in pool.refine(ready) if ready else ():
            journal.add(entry)
            watcher.note(entry)
        if watcher.is_over():
            return
        if not ready:
            time.sleep(watcher.rhythm.interval)


class _Watcher:
    """State of the files of a watched folder.

    Attributes:
        rhythm: when the folder is looked at.
        waiting: names of the images that have no mask yet.
    """

    def __init__(self, job: Job, rhythm: Rhythm, listener: Listener) -> None:
        self.rhythm, self.waiting = rhythm, list[str]()
        self._job, self._listener = job, listener
        self._since: dict[str, tuple[State, float]] = {}
        self._failed: dict[str, State] = {}
        self._warned: set[str] = set()
        self._busy = time.monotonic()

    def has_results(self) -> bool:
        """Return whether the output has results of images that are there now."""
        dataset = self._open()
        return any(dataset.is_done(item, self._job.output) for item in dataset.find_items())

    def look(self, journal: Journal) -> list[Item]:
        """The images that can be refined now: they are whole, have masks, and have not failed as they are."""
        try:
            dataset = self._open()
            items = list(dataset.find_items())
        except (SegrefineError, OSError) as error:  # such as a labels.json that is half-written
            self._warn_once(str(error))
            return []
        left = list(self._list_left(dataset, items, journal))
        now = time.monotonic()
        ready = [item for item, state in left if self._is_settled(item, state, now)]
        if ready or any(self._failed.get(item.name) != state for item, state in left):
            self._busy = now
        return ready

    def note(self, entry: Entry) -> None:
        """Remember in what state an image failed, and tell of it."""
        if entry.status == "failed":
            self._failed[entry.name] = self._since[entry.name][0]
        self._busy = time.monotonic()
        self._listener.done(entry)

    def is_over(self) -> bool:
        """Return whether there was nothing to do for as long as the watch should wait."""
        longest = self.rhythm.stop_after
        return longest is not None and time.monotonic() - self._busy > longest

    def _open(self) -> MaskFiles:
        return cast(MaskFiles, self._job.open_dataset())

    def _list_left(self, dataset: MaskFiles, items: Sequence[Item], journal: Journal) -> Iterator[tuple[Item, State]]:
        """The images that are not done and lack nothing, each with the state of its files."""
        self.waiting = []
        for item in items:
            if dataset.is_done(item, self._job.output):
                if getattr(journal.entries.get(item.name), "status", None) != "done":
                    journal.add(Entry(name=item.name, status="done"))  # killed between the result and this line
                continue
            try:
                state = tuple(map(_describe_file, dataset.files_of(item)))
            except OSError:  # it was moved away
                continue
            if item.masks or item.problem:
                yield item, state
            else:
                self._await_mask(item, state)

    def _await_mask(self, item: Item, state: State) -> None:
        """Note that an image has no mask yet; after a while, say so."""
        self.waiting.append(item.name)
        if time.monotonic() - self._since_when(item, state) > _PATIENCE:
            self._warn_once(f"{item.image} waits for its mask")

    def _is_settled(self, item: Item, state: State, now: float) -> bool:
        if self._failed.get(item.name) == state:
            return False
        return now - self._since_when(item, state) >= self.rhythm.settle

    def _since_when(self, item: Item, state: State) -> float:
        """The time of the first look at which the files of an image were as they are now."""
        known = self._since.get(item.name)
        if known is None or known[0] != state:
            known = self._since[item.name] = state, time.monotonic()
        return known[1]

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            self._listener.warn(sentence)


def _describe_file(path: os.PathLike[str]) -> tuple[str, int, int]:
    facts = os.stat(path)
    return str(path), facts.st_size, facts.st_mtime_ns
