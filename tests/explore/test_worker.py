"""The worker: one at a time, bounded, and nothing answered late."""

import threading
from concurrent.futures import CancelledError

import pytest

from flaxae.explore.worker import Busy, Worker


@pytest.fixture
def held():
    """A worker whose thread is busy until the event is set."""
    worker, go, started = Worker(limit=4), threading.Event(), threading.Event()

    def wait():
        started.set()
        assert go.wait(30)

    worker.submit(wait)
    assert started.wait(30)
    yield worker, go
    go.set()
    worker.close()


def test_the_oldest_move_of_a_person_is_dropped(held):
    worker, go = held
    done = []
    futures = [worker.submit(lambda i=i: done.append(i), ("me", "slider")) for i in range(5)]
    other = worker.submit(lambda: done.append("you"), ("you", "slider"))
    mine = worker.submit(lambda: done.append("grid"), ("me", "grid"))
    assert [f.cancelled() for f in futures] == [True] * 4 + [False] and worker.dropped == 4
    go.set()
    mine.result(30), other.result(30)
    assert done == [4, "you", "grid"]  # the last move has the first one's place
    with pytest.raises(CancelledError):
        futures[0].result(1)


def test_the_queue_is_bounded(held):
    worker, go = held
    for i in range(4):
        worker.submit(lambda: None, i)
    with pytest.raises(Busy, match="4 requests wait"):
        worker.submit(lambda: None, "another")
    worker.submit(lambda: None, 3)  # takes the place of one that waits
    go.set()
    worker.submit(lambda: None, 3).result(30)


def test_one_at_a_time_and_each_his_own():
    worker, inside, most = Worker(limit=100), [], []

    def call(i):
        inside.append(i)
        most.append(len(inside))
        inside.remove(i)
        return i * i

    futures = [worker.submit(lambda i=i: call(i)) for i in range(50)]
    assert [f.result(30) for f in futures] == [i * i for i in range(50)] and set(most) == {1}
    worker.close()


def test_an_error_belongs_to_who_asked():
    worker = Worker()
    broken = worker.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken.result(30)
    assert worker.submit(lambda: 5).result(30) == 5
    worker.close()
    with pytest.raises(Busy, match="shutting down"):
        worker.submit(lambda: 5)
