"""Which worker may accept a connection: a rule over what the workers show each other."""

from __future__ import annotations

import pytest

from proxy.server.acceptor import LEAD_MARGIN, ConnectionTable, WorkerLoad


def two_workers() -> tuple[WorkerLoad, WorkerLoad]:
    table = ConnectionTable(2)
    return WorkerLoad(table, 0), WorkerLoad(table, 1)


def take(load: WorkerLoad, count: int = 1) -> None:
    for _ in range(count):
        load.record_accepted()
        load.record_opened()


def test_a_worker_is_ahead_once_it_has_more_connections_than_the_margin() -> None:
    first, second = two_workers()
    take(first, LEAD_MARGIN)
    assert not first.is_ahead()
    take(first)
    assert first.is_ahead()
    assert not second.is_ahead()


def test_a_worker_is_no_longer_ahead_when_its_connections_close() -> None:
    first, _ = two_workers()
    take(first, LEAD_MARGIN + 1)
    first.record_closed()
    assert not first.is_ahead()


def test_a_lone_worker_is_never_ahead() -> None:
    load = WorkerLoad(ConnectionTable(1), 0)
    take(load, 100)
    assert not load.is_ahead()


def test_a_peer_that_accepts_nothing_is_overtaken_by_twice_as_many_each_time() -> None:
    first, _ = two_workers()
    take(first, LEAD_MARGIN + 1)
    taken: list[int] = []
    for _ in range(6):
        assert first.is_ahead()
        first.allow_overtaking()
        before = sum(taken)
        while not first.is_ahead():
            take(first)
            taken.append(1)
            assert sum(taken) <= 100
        taken = [sum(taken)]
        assert taken[0] - before in {1, 2, 4, 8, 16, 32}
    assert taken == [63]


def test_a_peer_that_accepts_again_is_waited_for_again() -> None:
    first, second = two_workers()
    take(first, LEAD_MARGIN + 10)
    first.allow_overtaking()
    assert not first.is_ahead()
    take(second)
    assert first.is_ahead()
    first.allow_overtaking()
    take(first)
    assert first.is_ahead()  # one, as the first time


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_stopped_peer_is_overtaken_although_another_one_accepts(stopped: int) -> None:
    table = ConnectionTable(3)
    loads = [WorkerLoad(table, number) for number in range(3)]
    running = [loads[0], loads[3 - stopped]]
    pauses = 0
    for number in range(1_000):
        load = running[number % 2]
        if load.is_ahead():
            load.allow_overtaking()
            pauses += 1
        take(load)
    assert pauses <= 24


def test_a_new_worker_starts_with_no_connections() -> None:
    table = ConnectionTable(2)
    first, dead = WorkerLoad(table, 0), WorkerLoad(table, 1)
    take(dead, 10)
    take(first, 5)
    assert not first.is_ahead()
    WorkerLoad(table, 1)
    assert first.is_ahead()
