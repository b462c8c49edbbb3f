"""Who may share an answer, and which form of the API is asked for."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.messages import Fields
from proxy.core.partition import NotShareable, Partition, Partitioner, api_variant

SECRET = b"sixteen bytes or more"
TOKENS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="%"), min_size=1, max_size=40)


def partition(token: str, *, secret: bytes = SECRET) -> Partition:
    made = Partitioner(secret).from_fields(Fields([("X-Auth-Token", token)]))
    assert isinstance(made, Partition)
    return made


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        pytest.param([], NotShareable.NO_TOKEN, id="no credentials"),
        pytest.param([("X-Auth-Token", "")], NotShareable.NO_TOKEN, id="an empty token"),
        pytest.param([("X-Project-Id", "alpha")], NotShareable.NO_TOKEN, id="a forged project is no credential"),
        pytest.param([("X-Auth-Token", "a"), ("x-auth-token", "b")], NotShareable.TWO_TOKENS, id="two tokens"),
        pytest.param([("X-Auth-Token", "a"), ("X-Auth-Token", "a")], NotShareable.TWO_TOKENS, id="the same one twice"),
        pytest.param(
            [("X-Auth-Token", ""), ("X-Auth-Token", "a")], NotShareable.TWO_TOKENS, id="an empty one before it"
        ),
        pytest.param([("Authorization", "SDK-HMAC-SHA256 …")], NotShareable.SIGNED, id="a signature"),
        pytest.param([("Authorization", "")], NotShareable.SIGNED, id="an empty Authorization is one all the same"),
        pytest.param([("X-Auth-Token", "a"), ("Authorization", "Basic …")], NotShareable.TWO_CREDENTIALS, id="both"),
        pytest.param([("X-Auth-Token", "a"), ("Cookie", "s=1")], NotShareable.TWO_CREDENTIALS, id="a cookie beside it"),
        pytest.param([("X-Auth-Token", "a"), ("X-Subject-Token", "b")], NotShareable.TWO_CREDENTIALS, id="a subject"),
        pytest.param(
            [("X-Auth-Token", "a"), ("X-Security-Token", "b")], NotShareable.TWO_CREDENTIALS, id="temporary keys"
        ),
    ],
)
def test_who_cannot_be_told_apart_safely_shares_nothing(lines: list[tuple[str, str]], reason: NotShareable) -> None:
    """Without exactly one token and nothing beside it there is no partition, and the reason is told."""
    assert Partitioner(SECRET).from_fields(Fields(lines)) is reason


@given(TOKENS)
def test_a_token_always_makes_the_same_partition(token: str) -> None:
    """Replicas that share the secret put a token into the same partition."""
    assert partition(token) == partition(token)


@given(TOKENS, TOKENS)
def test_two_tokens_make_two_partitions(one: str, other: str) -> None:
    """Partitions are equal exactly where the tokens are."""
    assert (partition(one) == partition(other)) == (one == other)


@given(TOKENS)
def test_another_secret_makes_another_partition(token: str) -> None:
    """Digests of one secret say nothing to who knows another."""
    assert partition(token) != partition(token, secret=SECRET[::-1])


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="%"), min_size=1, max_size=20))
def test_the_percent_encoded_spelling_is_the_same_token(token: str) -> None:
    """python-glanceclient quotes field values; its callers share with those who don't."""
    assert partition(quote(token, safe="")) == partition(token)


def test_a_token_of_raw_bytes_has_a_partition() -> None:
    """Bytes that are no UTF-8 arrive as surrogates and are digested as they are."""
    assert partition("a\udcff") != partition("a\udcfe")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=12, max_size=60))
def test_nothing_shows_token_or_secret(token: str) -> None:
    """Neither the partition nor its maker has them in its representation."""
    maker = Partitioner(token.encode().ljust(16, b"."))
    made = maker.for_token(token)
    assert token not in repr(made) + repr(maker) + repr(Fields([("X-Auth-Token", token)]))
    assert len(made.digest) == 32


def test_a_short_secret_is_refused_without_being_told() -> None:
    """A secret that could be guessed ends in an error that does not quote it."""
    with pytest.raises(ValueError, match="at least 16") as refused:
        Partitioner(b"guessable")
    assert "guessable" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        pytest.param([], "", id="absent is a class of its own"),
        pytest.param(["A"], "M", id="before M is Mitaka"),
        pytest.param(["M"], "M", id="M is Mitaka"),
        pytest.param(["N"], "Q", id="after M is Queens"),
        pytest.param(["Z"], "Q", id="the last letter"),
        pytest.param(["q"], "q", id="lower case is undocumented"),
        pytest.param(["QQ"], "QQ", id="two letters are undocumented"),
        pytest.param(["2"], "2", id="a number is undocumented"),
        pytest.param(["Ö"], "Ö", id="a letter beyond ASCII is undocumented"),
        pytest.param(["A", "Q"], "A,Q", id="two values are undocumented"),
    ],
)
def test_the_variant_follows_the_documented_letters(values: list[str], form: str) -> None:
    """Only documented values are classed together; every other stands for itself."""
    assert api_variant(Fields([("X-Api-Version", value) for value in values])) == form


@given(st.lists(st.text(max_size=3), min_size=1, max_size=3))
def test_undocumented_values_never_join_a_documented_class(values: list[str]) -> None:
    """The two documented forms are reached by one upper-case ASCII letter only."""
    if api_variant(Fields([("X-Api-Version", value) for value in values])) in ("M", "Q"):
        assert len(values) == 1
        assert len(values[0]) == 1
        assert values[0].isascii()
        assert values[0].isupper()
