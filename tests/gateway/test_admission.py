"""What one caller may ask of the proxy, for whom it asks, and what is left undone when the budget runs low."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from proxy.caching.background import BudgetSaver
from proxy.config.loading import ConfigurationError, load
from proxy.core.call_context import Priority
from proxy.core.freshness import Lifetimes
from proxy.core.messages import Fields, Request
from proxy.core.partition import NotShareable, Partitioner, Principal
from proxy.errors import ClientLimitError, OverloadedError, RateLimitedError
from proxy.gateway.admission import Admission
from proxy.ratelimit.priority import CallPriorities
from proxy.ratelimit.sliding_window import RateLimit
from tests.support.listings import SECRET, MakeWorld, make_world

__all__ = ["make_world"]

PARTITIONS = Partitioner(SECRET)


def test_a_caller_has_so_many_requests_in_a_period() -> None:
    """The third of two a minute is refused and told when to come back; another caller is not."""
    now = [0.0]
    admission = Admission(rate_limit=RateLimit(2, 60.0), clock=lambda: now[0])
    for _ in range(2):
        with admission.admit("a"):
            now[0] += 10.0
    with pytest.raises(ClientLimitError) as refused, admission.admit("a"):
        pass
    assert refused.value.status == 429
    assert refused.value.retry_after_s == pytest.approx(40.06)
    with admission.admit("b"):
        pass
    now[0] += 41.0
    with admission.admit("a"):
        pass


def test_a_caller_has_so_many_requests_at_once() -> None:
    """While two are under way a third is refused with 429; when one has ended it is not."""
    admission = Admission(max_per_caller=2, clock=lambda: 0.0)
    with ExitStack() as under_way:
        under_way.enter_context(admission.admit("a"))
        with admission.admit("a"), pytest.raises(ClientLimitError), admission.admit("a"):
            pass
        with admission.admit("b"), admission.admit("a"):
            pass


def test_the_proxy_has_so_many_requests_at_once() -> None:
    """Beyond that whoever comes gets 503, and a request that was refused leaves nothing behind."""
    admission = Admission(max_total=2, clock=lambda: 0.0)
    with admission.admit("a"), admission.admit("b"):
        for _ in range(3):
            with pytest.raises(OverloadedError) as refused, admission.admit("c"):
                pass
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (503, "PROXY.0503", 1.0)
    with admission.admit("c"), admission.admit("d"):
        pass


@pytest.mark.parametrize(
    ("fields", "same_as", "keyed"),
    [
        pytest.param({"X-Auth-Token": "t"}, {"X-Auth-Token": "t", "User-Agent": "x"}, False, id="a token"),
        pytest.param({"X-Api-Key": "k", "X-Auth-Token": "1"}, {"Authorization": "Bearer k"}, True, id="a key"),
        pytest.param({"X-Auth-Token": "t"}, {"X-Auth-Token": "t", "X-Api-Key": "k"}, False, id="a key nobody checks"),
        pytest.param({"X-Api-Key": "k"}, {"X-Api-Key": "k", "X-Auth-Token": "1"}, True, id="a token nobody checks"),
        pytest.param({}, {"User-Agent": "x"}, False, id="else the address"),
        pytest.param({}, {"Authorization": "Bearer k", "X-Api-Key": "k"}, False, id="the address for unchecked keys"),
    ],
)
def test_who_a_caller_is(fields: dict[str, str], same_as: dict[str, str], *, keyed: bool) -> None:
    """Known by the credential that counts or by address, and nothing of a credential can be read from it."""
    claimants = CallPriorities(PARTITIONS, by_api_key=keyed)
    caller = claimants.caller_id(Fields(fields.items()), peer="10.0.0.1")
    assert caller == claimants.caller_id(Fields(same_as.items()), peer="10.0.0.1")
    assert caller != claimants.caller_id(Fields({"X-Auth-Token": "other"}.items()), peer="10.0.0.2")
    assert (caller == "at 10.0.0.1") == (not fields)


@pytest.mark.parametrize(
    ("method", "said", "chosen", "priority"),
    [
        pytest.param("GET", None, True, Priority.INTERACTIVE, id="a read"),
        pytest.param("GET", "batch", True, Priority.BATCH, id="a read that says it can wait"),
        pytest.param("GET", "Interactive", True, Priority.INTERACTIVE, id="in any case"),
        pytest.param("GET", "batch", False, Priority.BATCH, id="which anyone may say"),
        pytest.param("GET", "write", True, Priority.INTERACTIVE, id="nobody chooses to be a write"),
        pytest.param("DELETE", "batch", True, Priority.WRITE, id="a write is one"),
    ],
)
def test_how_urgent_a_request_is(method: str, said: str | None, chosen: bool, priority: Priority) -> None:
    """The class of a request, by its method and, where that is allowed, by its own word."""
    fields = Fields([("X-Request-Priority", said)] if said else [])
    claimants = CallPriorities(PARTITIONS, may_choose=chosen)
    assert (
        claimants.call_context(Request(method, "/", fields, "id"), NotShareable.NO_TOKEN, caller="us").priority
        is priority
    )


def test_batch_may_be_the_usual_class() -> None:
    """A proxy for batch tools alone needs no header, and nobody raises it who may not."""
    claimants = CallPriorities(PARTITIONS, Priority.BATCH)
    for fields in (Fields(), Fields([("X-Request-Priority", "interactive")])):
        request = Request("GET", "/", fields, "id")
        assert claimants.call_context(request, NotShareable.NO_TOKEN, caller="us").priority is Priority.BATCH


def test_lists_and_what_passes_through_share_their_partition_s_budget() -> None:
    """A token's write counts towards the same budget as its lists; who has none shares one with others like it."""
    claimants = CallPriorities(PARTITIONS)
    partition = PARTITIONS.for_token("t")
    request = Request("GET", "/", Fields([("X-Auth-Token", "t")]), "id")
    assert claimants.call_context(request, Principal(partition, partition), caller="us").partition == partition.digest
    assert claimants.call_context(request, NotShareable.UNVERIFIED, caller="us").partition == partition.digest
    anonymous = Request("GET", "/", Fields(), "id")
    assert claimants.call_context(anonymous, NotShareable.NO_TOKEN, caller="us").partition == ""


@pytest.mark.parametrize("given", [{"BUDGET__CALLS": "5"}, {"CLIENTS__PER_S": "5"}])
def test_half_a_limit_is_an_error(given: dict[str, str]) -> None:
    """Calls without a period, or a period without calls."""
    environment = {f"IMS_PROXY_{name}": value for name, value in given.items()}
    with pytest.raises(ConfigurationError, match="given without"):
        load(None, environment, {("upstream", "url"): "http://upstream"})


async def test_a_list_gone_stale_is_given_without_a_call_when_the_budget_runs_low(make_world: MakeWorld) -> None:
    """Inside the stale window lifetimes stretch: `thrift` instead of a revalidation."""
    low = [False]
    undone: list[str] = []
    world = make_world(
        lifetimes=Lifetimes(60.0, stale_while_revalidate_s=60.0), thrift=BudgetSaver(lambda _: low[0], undone.append)
    )
    await world.get("limit=10")
    world.upstream.forget()
    world.passes(70)
    low[0] = True
    got = await world.get("limit=10")
    assert (got.cache_status.detail, got.age_s) == ("budget-low", 70.0)
    assert (world.upstream.targets, undone) == ([], ["revalidate"])
    low[0] = False
    assert (await world.get("limit=10")).cache_status.detail == "stale-while-revalidate"
    await world.settled()
    assert len(world.upstream.targets) == 1


async def test_nothing_is_read_ahead_when_the_budget_runs_low(make_world: MakeWorld) -> None:
    """A crawl goes on page by page."""
    undone: list[str] = []
    world = make_world(readahead=True, thrift=BudgetSaver(lambda _: True, undone.append))
    await world.get("limit=10")
    await world.get("limit=10&marker=i009")
    await world.settled()
    assert undone == ["prefetch"]
    assert len(world.upstream.targets) == 1


async def test_something_stale_is_given_rather_than_waited_for(make_world: MakeWorld) -> None:
    """With no call to be had a list beyond its revalidation window is given, and says why; one unknown is not."""
    world = make_world(lifetimes=Lifetimes(60.0, stale_if_error_s=600.0))
    await world.get("limit=10")
    world.passes(100)
    world.upstream.failing = RateLimitedError("upstream: no call", retry_after_s=9)
    got = await world.get("limit=10")
    assert (got.cache_status.detail, got.age_s) == ("stale-while-waiting", 100.0)
    assert world.upstream.requests[-1].context.may_wait is False
    with pytest.raises(RateLimitedError):
        await world.get("limit=10&name=other")
    assert world.upstream.requests[-1].context.may_wait is True


def test_two_tokens_are_nobody_in_particular() -> None:
    """Which of them the upstream takes is not known here, so neither gives a caller a share of its own."""
    claimants = CallPriorities(PARTITIONS)
    fields = Fields([("X-Auth-Token", "made-up"), ("X-Auth-Token", "t")])
    assert claimants.caller_id(fields, peer="10.0.0.1") == "at 10.0.0.1"
