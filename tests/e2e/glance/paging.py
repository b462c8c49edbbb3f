"""Crawls by hand: along the `next` links, as clients do, or from marker to marker, which trusts no link."""

from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from tests.support.http import Answer, ask

MAX_PAGES = 400

Parameters = list[tuple[str, str]]


def get(origin: str, target: str, token: str) -> Answer:
    return ask(origin, target, fields={"X-Auth-Token": token, "Accept": "application/json"})


def target(parameters: Parameters) -> str:
    """Return the list target that carries *parameters* in their order."""
    return f"/v2/images?{urlencode(parameters, quote_via=quote)}"


def marker_of(link: str) -> str:
    """Return the marker in *link*, which has exactly one."""
    [marker] = [value for name, value in parse_qsl(urlsplit(link).query) if name == "marker"]
    return marker


def by_links(origin: str, first: str, token: str) -> list[str]:
    """Return the ids of all pages from *first* on, following every `next` as it is given."""
    ids: list[str] = []
    link = first
    for _ in range(MAX_PAGES):
        answer = get(origin, link, token)
        assert answer.status == 200, answer.body
        ids += answer.ids()
        if "next" not in answer.json():
            return ids
        link = answer.json()["next"]
    raise AssertionError(f"{first}: no end after {MAX_PAGES} pages")


def by_markers(origin: str, parameters: Parameters, token: str) -> list[str]:
    """Return the ids of all pages, sending every parameter anew and taking only the marker from `next`."""
    ids: list[str] = []
    marker: Parameters = []
    for _ in range(MAX_PAGES):
        answer = get(origin, target(parameters + marker), token)
        assert answer.status == 200, answer.body
        ids += answer.ids()
        link = answer.json().get("next")
        if link is None:
            return ids
        marker = [("marker", marker_of(link))]
    raise AssertionError(f"{parameters}: no end after {MAX_PAGES} pages")
