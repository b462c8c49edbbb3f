"""The Redis harness does to a real server what the failure tests ask of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.processes import ProgramError
from tests.support.redis import RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, socket_timeout=30, retry=None) as connected:
        yield connected


def test_commands_are_answered_on_both_addresses(server: RedisServer, client: redis.Redis) -> None:
    """The port and the Unix socket lead to the same database."""
    client.set("k", "v")
    with redis.Redis(unix_socket_path=str(server.socket_path)) as beside:
        assert beside.get("k") == b"v"


def test_a_killed_server_refuses_until_restarted_and_comes_back_empty(server: RedisServer, client: redis.Redis) -> None:
    """After a kill connections are refused; a restart serves the same address with nothing in it."""
    client.set("k", "v")
    server.kill()
    with pytest.raises(redis.ConnectionError):
        client.get("k")
    server.restart()
    assert client.get("k") is None


def test_a_paused_server_is_silent_and_a_resumed_one_answers(server: RedisServer, client: redis.Redis) -> None:
    """A frozen server lets requests time out; thawed, it still has what it had."""
    client.set("k", "v")
    server.pause()
    with (
        redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as impatient,
        pytest.raises(redis.TimeoutError),
    ):
        impatient.get("k")
    server.resume()
    assert client.get("k") == b"v"


def test_a_paused_server_is_stopped_all_the_same(tmp_path: Path) -> None:
    """Leaving the block ends a server that is frozen."""
    with RedisServer(tmp_path) as server:
        server.pause()
    assert not Path(f"/proc/{server.pid}").exists()


def test_a_missing_server_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a binary the harness fails with one line that says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramError, match=r"apt-get install redis-server"):
        RedisServer(tmp_path).start()
