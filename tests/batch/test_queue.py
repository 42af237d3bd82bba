"""What becomes of items whose workers die."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from segrefine.batch.queue import STARTS, Queue
from segrefine.datasets.items import Item
from segrefine.errors import EngineError


def items(count: int) -> list[Item]:
    return [Item(name=f"{number:03d}", root=Path(), image=f"{number:03d}.png") for number in range(count)]


def test_what_a_worker_died_of_is_found_out():
    first, deadly, third = items(3)
    queue = Queue((first, deadly, third), lambda item: False)
    held = [queue.take([]), queue.take([first])]
    assert held == [first, deadly] and queue.take(held) is None and queue.take([]) == third
    assert list(queue.bury(held, "exit code -9")) == [] and len(queue) == 2
    assert queue.take([third]) is None  # what is under suspicion is given to a worker without another item
    assert queue.take([]) == first and queue.take([first]) is None  # and none is added
    assert queue.take([]) == deadly
    [entry] = queue.bury([deadly], "exit code -9")
    assert (entry.name, entry.status, entry.error) == (deadly.name, "failed", "WorkerDied")
    assert "exit code -9" in entry.message and entry.hint
    assert queue.take([]) is None and not queue


def test_what_a_dead_worker_had_written_is_done():
    [first, second] = items(2)
    queue = Queue((first, second), lambda item: item is first)
    [entry] = queue.bury([queue.take([]), queue.take([first])], "exit code -9")
    assert (entry.name, entry.status) == (first.name, "done") and queue.take([]) == second


def test_what_no_worker_saw_is_not_under_suspicion():
    first, second = items(2)
    queue = Queue((first, second), lambda item: False)
    queue.put_back(queue.take([]))
    assert queue.take([]) == first and queue.take([first]) == second
    list(queue.bury([first], "gone"))
    queue.put_back(queue.take([]))
    assert queue.take([]) == first and queue.take([first]) is None


def test_workers_that_never_begin_end_the_run():
    queue = Queue(items(1), lambda item: False)
    for _ in range(STARTS - 1):
        assert list(queue.bury([], "exit code 1")) == []
    with pytest.raises(EngineError, match="3 workers died before they began, the last: exit code 1"):
        list(queue.bury([], "exit code 1"))


@pytest.mark.parametrize("seed", range(20))
def test_every_item_ends_once_and_only_deadly_ones_fail(seed):
    rng = random.Random(seed)
    everything = items(40)
    deadly = {item.name for item in rng.sample(everything, 6)}
    queue, ended, deaths = Queue(everything, lambda item: False), [], 0
    workers: list[list[Item]] = [[] for _ in range(rng.randint(1, 5))]
    while queue or any(workers):
        worker = rng.choice(workers)
        while item := queue.take(worker):
            worker.append(item)
        if any(item.name in deadly for item in worker) and rng.random() < 0.7:
            entries, deaths = list(queue.bury(worker, "gone")), deaths + 1
            ended += [(entry.name, entry.status) for entry in entries]
            worker.clear()
        elif worker and worker[0].name not in deadly:
            ended.append((worker.pop(0).name, "done"))
    assert sorted(ended) == [(item.name, "failed" if item.name in deadly else "done") for item in everything]
    assert deaths <= 2 * len(deadly)
