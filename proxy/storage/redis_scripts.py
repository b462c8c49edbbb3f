"""Scripts, key names and errors that all parts of the Redis store share.

No credential, no query and no client's text but an image id stands in a key's name.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import ClusterError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from proxy.core.cache_key import CacheKey, digest
from proxy.core.tls_verification import explain_verification_error
from proxy.core.values import immutable
from proxy.errors import StoreRefusedError, StoreTimeoutError, StoreUnavailableError
from proxy.storage.base import ListingState
from proxy.storage.redis_connection import RedisServers
from proxy.storage.redis_pipeline import Pipeline, Word, Words

_ORIGIN_DIGITS: Final = 16
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def prefix_for_upstream(prefix: str, origin: str) -> str:
    """Return what the names of all that is kept for the upstream *origin*, a URL, begin with, behind *prefix*.

    A token may be good at several upstreams, and what one of them shows is not what another does.
    """
    parts = urlsplit(origin)
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return f"{prefix}{digest((parts.scheme, parts.hostname or '', str(port)))[:_ORIGIN_DIGITS]}:"


@immutable
class KeyNames:
    """Every name begins with *prefix*. A cluster keeps together what has the same in its first braces: a listing; what
    all listings have in common, which invalidations change; and the budgets.
    """

    prefix: str

    def spans(self, key: CacheKey) -> str:
        """What the names of a listing's spans begin with; the marker follows."""
        return f"{self.prefix}{{{key.digest}}}:s:"

    def index(self, key: CacheKey) -> str:
        """The listing's index: image id -> where it stands."""
        return f"{self.prefix}{{{key.digest}}}:i"

    def fetch_lock(self, key: CacheKey, marker: str) -> str:
        """The fetch lock on the span after a marker."""
        return f"{self.prefix}{{{key.digest}}}:c:{digest((marker,))}"

    def fetch_lock_counter(self, key: CacheKey) -> str:
        """The count of the listing's fetch locks: the fence."""
        return f"{self.prefix}{{{key.digest}}}:n"

    def generation(self, scope: str) -> str:
        """The generation of a scope."""
        return f"{self._common}g:{scope}"

    def listings(self, scope: str) -> str:
        """The listings that are kept under a scope, by when they expire."""
        return f"{self._common}l:{scope}"

    @property
    def pending_changes(self) -> str:
        """Until when every listing is unsettled."""
        return f"{self._common}unsettled"

    @property
    def secret(self) -> str:
        """The partitions' shared secret."""
        return f"{self._common}secret"

    def own_token(self, identity: str) -> str:
        """The token of the proxy's own, sealed, of the identity with that digest."""
        return f"{self.prefix}own:{identity}"

    @property
    def server_run(self) -> str:
        """The run of the server whose contents are believed."""
        return f"{self._common}run"

    @property
    def replicas(self) -> str:
        """The replicas that may trust their memory, by when they no longer do."""
        return f"{self._common}replicas"

    @property
    def invalidation_log(self) -> str:
        """The number of invalidations that were published."""
        return f"{self._common}news"

    @property
    def channel(self) -> str:
        """Where replicas tell each other of invalidations, and of fetch locks that were released."""
        return f"{self.prefix}events"

    def budget(self, scope: str) -> tuple[str, str]:
        """The calls that count towards the budget of a scope, and its gate and limits."""
        return f"{self._budgets}calls:{scope}", f"{self._budgets}gate:{scope}"

    @property
    def budgets(self) -> str:
        """The life of the budgets in this server: another value, and what was called is not all logged here.

        A cluster keeps all budgets on one node for its sake.
        """
        return f"{self._budgets}life"

    @property
    def budget_replicas(self) -> str:
        """The replicas that lately asked for calls, by when they last did."""
        return f"{self._budgets}replicas"

    def wake_message(self, listing: str, after: str) -> str:
        """The message that a fetch lock was released."""
        return f"w:{listing}:{digest((after,))}"

    @property
    def _common(self) -> str:
        return f"{self.prefix}{{lists}}:"

    @property
    def _budgets(self) -> str:
        return f"{self.prefix}{{budgets}}:"


_NAMES: Final = ("chain", "put", "hold", "draw", "claim", "settle", "budget", "beat", "tell", "run")
_LAYOUT: Final = frozenset({"chain", "put"})  # what reads spans and the index, by `layout.lua`


def _script(name: str) -> str:
    text = "".join(
        files("proxy.storage").joinpath(f"scripts/{part}.lua").read_text()
        for part in (*_parse_requirements(name), name)
    )
    return re.sub(r"(?m)^\s*--.*\n", "", text)


def _parse_requirements(name: str) -> tuple[str, ...]:
    return ("layout",) if name in _LAYOUT else ()


# Sent as text each time: Redis knows it by its hash, and one that restarted needs no second round trip to learn it.
SCRIPTS: Final = {name: _script(name) for name in _NAMES}
# What the client raises, also where it can't make sense of a reply.
_REDIS_ERRORS: Final = (RedisError, RedisClusterException, OSError, ValueError, TypeError, IndexError)
_MAX_COMMANDS: Final = 64  # under way at once, beside pipelines of reads; more wait here, not for connections
_GENERATION: Final = re.compile(rb"[0-9a-f]{16}")
# How long a generation and a fence live that nothing was kept under: longer than any fetch takes. Who makes up tokens
# or queries leaves no more behind. A fetch that took longer all the same is kept under a generation that is gone, so it
# is not used; an invalidation is never forgotten for that, for it is remembered on its own.
UNUSED_MS: Final = 10 * 60 * 1000

Result = TypeVar("Result")


def eval_command(script: str, keys: Sequence[str], words: Sequence[Word]) -> Words:
    """Return the command that runs *script*."""
    return ("EVAL", SCRIPTS[script], len(keys), *keys, *words)


class RedisCommands:
    """Redis under the names that begin with *prefix*; *remember_ms* is how long an invalidation is remembered."""

    def __init__(self, servers: RedisServers, *, prefix: str, remember_ms: int) -> None:
        self.servers = servers
        self.names = KeyNames(prefix)
        self.remember_ms = remember_ms
        self._pipeline = Pipeline(servers)
        self._slots = asyncio.Semaphore(_MAX_COMMANDS)

    async def run(self, script: str, keys: Sequence[str], words: Sequence[Word]) -> Any:
        """Return what *script* returns, by a connection of its own: no other command holds it up."""
        async with self.translate_errors() as redis:
            return await redis.eval(SCRIPTS[script], len(keys), *keys, *words)

    async def send(
        self, commands: Sequence[Words], read: Callable[[list[Any]], Result], *, needed: int | None = None
    ) -> Result:
        """Return what *read* makes of the replies to *commands*, sent together with others'; see `Pipeline.execute`."""
        try:
            return await self._pipeline.execute(commands, read, needed=needed)
        except _REDIS_ERRORS as error:
            raise await self._translate(error) from error

    async def run_with_state(
        self,
        key: CacheKey,
        script: str,
        keys: Sequence[str],
        words: Sequence[Word],
        *,
        now: float,
    ) -> tuple[ListingState, Any]:
        """Return the state of *key* and what *script* returns, from one round trip.

        Scopes that have no generation get one first, for as long as it is not used.
        """
        scopes = [self.names.generation(scope) for scope in key.tags]
        drawn = [secrets.token_hex(8) for _ in scopes]
        drawing = eval_command("draw", [*scopes, self.names.pending_changes], [UNUSED_MS, *drawn])
        states, returned = await self.send([drawing, eval_command(script, keys, words)], tuple)
        return _parse_states(states).at(now), returned

    async def read_with_state(
        self,
        key: CacheKey,
        command: Words,
        *,
        now: float,
        read: Callable[[Any], Result],
        to: Hashable = None,
    ) -> tuple[ListingState, Result]:
        """Return the state of *key* and what *read* makes of the reply to *command*, which changes nothing.

        It is one round trip, shared with those who ask the same at the same moment: *to* the same end, where more than
        the command decides what is read.
        """

        def commands() -> list[Words]:
            # By their names, for a cluster's pipeline has no `mget`: it can't know that these keys are in one slot.
            scopes = [self.names.generation(scope) for scope in key.tags]
            return [("MGET", *scopes, self.names.pending_changes), command]

        def answer(replies: Sequence[Any]) -> tuple[_TagStates, Result]:
            return _parse_states(replies[0]), read(replies[1])

        try:
            states, made = await self._pipeline.query((*command, to), commands, answer)
        except _REDIS_ERRORS as error:
            raise await self._translate(error) from error
        return states.at(now), made

    async def reset(self) -> None:
        """Give up commands that may never be answered, and connections that may be dead."""
        await self._pipeline.reset()
        await self.servers.drop_idle()

    async def close(self) -> None:
        """End what is under way."""
        await self._pipeline.close()

    @asynccontextmanager
    async def translate_errors(self) -> AsyncIterator[Redis]:
        """Make Redis' errors ours. Their texts stay out: they may quote a command."""
        try:
            async with self._slots:
                yield self.servers.redis
        except _REDIS_ERRORS as error:
            raise await self._translate(error) from error

    async def probe(self) -> None:
        """Return once Redis has replied, however many commands wait for it."""
        try:
            await self.servers.redis.exists(self.names.server_run)
        except _REDIS_ERRORS as error:
            raise await self._translate(error) from error

    async def _translate(self, error: Exception) -> Exception:
        """Return what is raised in the place of *error*."""
        if isinstance(error, ResponseError) and not isinstance(error, ClusterError):
            return StoreRefusedError("redis: refused a command")
        if isinstance(error, (RedisTimeoutError, TimeoutError)):
            return StoreTimeoutError("redis: no reply in time")
        await self.servers.recheck()
        return StoreUnavailableError(f"redis: {_explain_unavailable(error)}")


def _explain_unavailable(error: Exception) -> str:
    """Return what *error* is in a few words. redis-py raises one of its own for that of a certificate."""
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return explain_verification_error(
                cause, remedy="add ssl_exclude_verify_flags=VERIFY_X509_STRICT to store.url"
            )
        cause = cause and (cause.__cause__ or cause.__context__)
    return type(error).__name__


@immutable
class _TagStates:
    """What Redis says of a listing's state: its *generation*, and until when it is unsettled, epoch seconds."""

    generation: str
    unsettled_until: float

    def at(self, now: float) -> ListingState:
        return ListingState(self.generation, changes_pending=now < self.unsettled_until)


def _parse_states(values: Sequence[bytes | None]) -> _TagStates:
    *generations, unsettled = values
    return _TagStates(".".join(map(_parse_generation, generations)), _parse_epoch_s(unsettled))


def _parse_generation(generation: bytes | None) -> str:
    """Return a generation as it was drawn; a foreign value is none."""
    return generation.decode() if generation and _GENERATION.fullmatch(generation) else "0"


def _parse_epoch_s(value: bytes | None) -> float:
    try:
        return float(value or 0)
    except ValueError:
        return 0.0
