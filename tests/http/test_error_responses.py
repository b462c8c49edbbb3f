"""In which form the proxy tells an error of its own."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.messages import Fields
from proxy.http.negotiation import prefers_text, render_error


def asked(*accept: str, agent: str = "") -> Fields:
    return Fields([*(("Accept", each) for each in accept), *([("User-Agent", agent)] if agent else [])])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        pytest.param(asked(), False, id="nothing said"),
        pytest.param(asked("*/*"), False, id="anything"),
        pytest.param(asked("application/json"), False, id="JSON"),
        pytest.param(asked("text/plain"), True, id="text"),
        pytest.param(asked("TEXT/Plain"), True, id="text, in any case"),
        pytest.param(asked("text/*"), True, id="any text"),
        pytest.param(asked("text/plain, */*;q=0.1"), True, id="text before all"),
        pytest.param(asked("text/plain", "application/json"), False, id="both, on two lines"),
        pytest.param(asked("text/plain;q=0.5, application/json;q=0.4"), True, id="text liked better"),
        pytest.param(asked("text/plain;q=0.5, application/*"), False, id="text liked less"),
        pytest.param(asked("text/plain;q=0, */*"), False, id="no text"),
        pytest.param(asked("*/*, application/json;q=0"), True, id="no JSON"),
        pytest.param(asked("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), False, id="a browser"),
        pytest.param(asked("text/plain;q=2"), False, id="a weight that is none"),
        pytest.param(asked("image/png"), False, id="neither"),
        pytest.param(asked("*/*", agent="python-glanceclient"), True, id="a client that reads no flat JSON"),
        pytest.param(asked("application/json", agent="python-glanceclient"), False, id="which asks for it"),
        pytest.param(asked("*/*", agent="openstacksdk/4.0"), False, id="another client"),
    ],
)
def test_text_is_for_who_likes_it_better(fields: Fields, *, text: bool) -> None:
    """JSON is the form that clients of the gateway parse; text is for who asks for it, or could not read that."""
    assert prefers_text(fields) is text


def test_both_forms_tell_the_same() -> None:
    """Code, message and request stand in either."""
    kind, body = render_error("PROXY.0502", "ims.example: no connection", request_id="abc", request_fields=asked())
    assert kind == "application/json"
    assert orjson.loads(body) == {
        "error_code": "PROXY.0502",
        "error_msg": "ims.example: no connection",
        "request_id": "abc",
    }
    kind, body = render_error(
        "PROXY.0502", "ims.example: no connection", request_id="abc", request_fields=asked("text/plain")
    )
    assert kind == "text/plain; charset=UTF-8"
    assert body == b"PROXY.0502: ims.example: no connection (request abc)\n"


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_field_gives_one_of_the_two(accept: str, agent: str) -> None:
    """Whatever is asked for, the answer is JSON or text, and quotes nothing of it."""
    kind, _ = render_error("C", "m", request_id="i", request_fields=asked(accept, agent=agent))
    assert kind in ("application/json", "text/plain; charset=UTF-8")
