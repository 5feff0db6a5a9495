"""The worker: one job at a time, a bounded queue, and no late answers."""

import threading
from concurrent.futures import CancelledError

import pytest

from flaxae.explore.worker import Busy, Worker


@pytest.fixture
def busy():
    """Provide a worker whose thread is busy until the event is set."""
    worker, go, started = Worker(limit=4), threading.Event(), threading.Event()

    def wait():
        started.set()
        assert go.wait(30)

    worker.submit(wait)
    assert started.wait(30)
    yield worker, go
    go.set()
    worker.close()


def test_a_newer_move_replaces_a_waiting_one(busy):
    worker, go = busy
    done = []
    futures = [worker.submit(lambda i=i: done.append(i), ("me", "slider")) for i in range(5)]
    other = worker.submit(lambda: done.append("you"), ("you", "slider"))
    mine = worker.submit(lambda: done.append("grid"), ("me", "grid"))
    assert [f.cancelled() for f in futures] == [True] * 4 + [False] and worker.dropped == 4
    go.set()
    mine.result(30), other.result(30)
    assert done == [4, "you", "grid"]  # the last move has the place of the first one
    with pytest.raises(CancelledError):
        futures[0].result(1)


def test_a_full_queue_is_an_error(busy):
    worker, go = busy
    for i in range(4):
        worker.submit(lambda: None, i)
    with pytest.raises(Busy, match="4 requests are waiting"):
        worker.submit(lambda: None, "another")
    worker.submit(lambda: None, 3)  # replaces a waiting job
    go.set()
    worker.submit(lambda: None, 3).result(30)


def test_jobs_run_one_at_a_time():
    worker, inside, most = Worker(limit=100), [], []

    def call(i):
        inside.append(i)
        most.append(len(inside))
        inside.remove(i)
        return i * i

    futures = [worker.submit(lambda i=i: call(i)) for i in range(50)]
    assert [f.result(30) for f in futures] == [i * i for i in range(50)] and set(most) == {1}
    worker.close()


def test_an_error_is_raised_by_its_own_future():
    worker = Worker()
    broken = worker.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken.result(30)
    assert worker.submit(lambda: 5).result(30) == 5
    worker.close()
    with pytest.raises(Busy, match="shutting down"):
        worker.submit(lambda: 5)
