"""One HTTP request as it is written here: no parameter re-encoded, no field added but Host, no redirect followed."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; *fields* has lower-case names."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def ids(self) -> list[str]:
        """Return the ids of the images that a list answer shows."""
        return [image["id"] for image in self.json()["images"]]


def ask(origin: str, target: str, *, method: str = "GET", fields: Mapping[str, str] | None = None) -> Answer:
    """Send one request for the raw *target* to *origin* and return the whole answer."""
    connection = http.client.HTTPConnection(urlsplit(origin).netloc, timeout=_TIMEOUT_S)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in (fields or {}).items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()
