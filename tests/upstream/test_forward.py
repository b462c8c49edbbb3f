"""How far an OPTIONS request goes."""

import pytest

from proxy.core.messages import Fields, Request
from proxy.upstream.forward import answer_options, answers_locally, to_upstream_request


def asked(method: str = "OPTIONS", target: str = "/a", *hops: str) -> Request:
    return Request(method, target, Fields(("Max-Forwards", each) for each in hops), "id")


@pytest.mark.parametrize(
    ("request_", "ends"),
    [
        pytest.param(asked("OPTIONS", "*"), True, id="of the server"),
        pytest.param(asked("OPTIONS", "/a", "0"), True, id="no hop left"),
        pytest.param(asked("OPTIONS", "/a", "1"), False, id="a hop left"),
        pytest.param(asked("OPTIONS", "/a"), False, id="hops without end"),
        pytest.param(asked("OPTIONS", "/a", "0", "0"), False, id="two counts"),
        pytest.param(asked("OPTIONS", "/a", "-1"), False, id="no number"),
        pytest.param(asked("GET", "/a", "0"), False, id="of another method"),
    ],
)
def test_options_end_where_they_are_meant_to(request_: Request, *, ends: bool) -> None:
    """Those of the server, and those that may go no further, are answered here."""
    assert answers_locally(request_) is ends


@pytest.mark.parametrize(
    ("request_", "left"),
    [
        (asked("OPTIONS", "/a", "9"), ["8"]),
        (asked("OPTIONS", "/a", "1"), ["0"]),
        (asked("OPTIONS", "/a"), []),
        (asked("OPTIONS", "/a", "x"), ["x"]),
        (asked("GET", "/a", "9"), ["9"]),
    ],
)
def test_a_hop_is_one_less(request_: Request, left: list[str]) -> None:
    """Of OPTIONS only, and only where it is counted."""
    assert to_upstream_request(request_).fields.get_all("Max-Forwards") == left


def test_the_options_name_what_is_carried_on() -> None:
    """Neither CONNECT nor TRACE is among them."""
    allowed = answer_options().fields.get("Allow") or ""
    assert {"GET", "OPTIONS"} < set(allowed.split(", "))
    assert not {"CONNECT", "TRACE"} & set(allowed.split(", "))
