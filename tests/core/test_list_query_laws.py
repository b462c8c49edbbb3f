"""Laws of the canonical query, whatever the parameters."""

from collections import defaultdict
from urllib.parse import parse_qsl, quote

from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.list_query import ListQuery, parse_list_query

Pairs = list[tuple[str, str]]

_TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=8)
_NAMES = st.sampled_from(["tag", "sort_key", "sort_dir", "sort", "name", "visibility", "__os_type", "owner"])
_VALUES = st.sampled_from(["created_at", "desc", "asc", "name", "public", "a=b", "a&b", "50% + 1", "R&D; test"])
_LISTING = st.lists(
    st.tuples(_NAMES | _TEXT.filter(lambda name: name not in ("", "limit", "marker")), _VALUES | _TEXT), max_size=8
)
_WINDOW = st.fixed_dictionaries(
    {}, optional={"limit": st.integers(0, 10**17).map(str), "marker": _TEXT.filter(bool)}
).map(lambda window: list(window.items()))


def plainly(pairs: Pairs) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)


@st.composite
def spelt(draw: st.DrawFn, text: str) -> str:
    """Return a spelling of *text*: any character may be escaped, in either case, and a space may be a plus."""
    written = []
    for character in text:
        escaped = "".join(f"%{byte:02X}" for byte in character.encode())
        spellings = [escaped, escaped.lower()]
        if character == " ":
            spellings.append("+")
        elif character.isascii() and (character.isalnum() or character in "-._~/:,!*"):
            spellings.append(character)
        written.append(draw(st.sampled_from(spellings)))
    return "".join(written)


def clear(raw: str) -> ListQuery:
    query = parse_list_query(raw)
    assert isinstance(query, ListQuery), query
    return query


@given(_LISTING, _WINDOW)
def test_normalising_twice_changes_nothing(listing: Pairs, window: Pairs) -> None:
    """The canonical form parses to itself."""
    once = clear(plainly(listing + window))
    again = clear(once.canonical)
    assert again.pairs == once.pairs
    assert again.canonical == once.canonical


@given(_LISTING, _WINDOW, st.data())
def test_the_order_of_parameters_never_matters(listing: Pairs, window: Pairs, data: st.DataObject) -> None:
    """Parameters of different names, and equal tags, change places without changing the query."""
    pairs = listing + window
    queues: dict[str, Pairs] = defaultdict(list)
    for pair in pairs:
        queues[pair[0]].append(pair)
    queues["tag"] = data.draw(st.permutations(queues["tag"]))
    shuffled = [queues[name].pop(0) for name in data.draw(st.permutations([name for name, _ in pairs]))]
    assert clear(plainly(shuffled)) == clear(plainly(pairs))


@given(st.lists(st.sampled_from(["name", "id", "created_at", "status"]), min_size=2, max_size=4), st.data())
def test_the_order_of_sort_keys_always_matters(keys: list[str], data: st.DataObject) -> None:
    """Another ranking of sort keys, or of directions, is another listing."""
    other = data.draw(st.permutations(keys))
    assume(other != keys)
    for name in ("sort_key", "sort_dir"):
        assert clear(plainly([(name, key) for key in keys])) != clear(plainly([(name, key) for key in other]))


@given(_LISTING, _WINDOW, st.data())
def test_escapes_never_matter(listing: Pairs, window: Pairs, data: st.DataObject) -> None:
    """Every spelling of the same parameters is the same query."""
    pairs = listing + window
    raw = "&".join(f"{data.draw(spelt(name))}={data.draw(spelt(value))}" for name, value in pairs)
    assert clear(raw) == clear(plainly(pairs))


@given(_LISTING, _WINDOW)
def test_nothing_is_lost_or_invented(listing: Pairs, window: Pairs) -> None:
    """The canonical form holds exactly the listing's parameters, less the defaults of the query."""
    query = clear(plainly(listing + window))
    held = parse_qsl(query.canonical, keep_blank_values=True, strict_parsing=bool(query.canonical))
    missing = list(listing)
    for pair in held:
        missing.remove(pair)
    assert set(missing) <= {("sort_key", "created_at"), ("sort_dir", "desc")}
    assert len(missing) <= 2


@given(st.text(max_size=30))
def test_any_text_is_a_query_or_says_why_not(raw: str) -> None:
    """No input makes the parser fail, and what it makes of it is plain ASCII."""
    query = parse_list_query(raw)
    if isinstance(query, ListQuery):
        assert query.canonical.isascii()
        assert query.canonical.isprintable()
        assert clear(query.canonical).pairs == query.pairs
    else:
        assert query.reason.replace("-", "").isalnum()
