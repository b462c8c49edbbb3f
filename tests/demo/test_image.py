"""One image: its text, numbers and times."""

import pytest

from proxy.demo.image import format_time, parse_time
from tests.support.demo_images import an_image


@pytest.mark.parametrize(
    ("value", "text"), [("s", "s"), (True, "true"), (False, "false"), (7, "7"), (None, None), (["a"], None)]
)
def test_an_attribute_is_compared_as_text(value: object, text: str | None) -> None:
    """An attribute has the text that a query compares, none if it is no scalar."""
    assert an_image("i", attribute=value).get_text("attribute") == text


def test_a_boolean_is_no_number() -> None:
    """True is not 1."""
    assert an_image("i", size=True).get_number("size") is None


def test_a_stamp_is_the_instant_it_was_made_from() -> None:
    """A stamp gives back its instant, in whole seconds."""
    assert format_time(1_735_689_600.9) == "2025-01-01T00:00:00Z"
    assert parse_time(format_time(1_735_689_600.9)).timestamp() == 1_735_689_600


def test_the_rendering_keeps_the_order_of_keys() -> None:
    """Keys are written in the order that they came in."""
    assert an_image("i", z=1, a=2).json_bytes.endswith(b'"z":1,"a":2}')
