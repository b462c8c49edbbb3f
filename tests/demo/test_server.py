"""The look-alike over a real socket."""

import asyncio

import aiohttp
import orjson
import pytest

from proxy.demo import app as server
from proxy.demo.app import ImsLookalike
from proxy.demo.seed import ALPHA_PROJECT, BETA_PROJECT, TOKENS
from tests.support.demo_images import Ask

PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


async def test_a_crawl_by_next_links_meets_every_image_once(lookalike: ImsLookalike, ask: Ask) -> None:
    """A crawl shows what `/v2/cloudimages` shows, in as many calls as it has pages."""
    target, seen = "/v2/images?limit=7&__isregistered=true", []
    for _ in range(20):
        _, body = await ask("GET", target)
        document = orjson.loads(body)
        seen += [image["id"] for image in document["images"]]
        if "next" not in document:
            break
        target = document["next"]
    _, body = await ask("GET", "/v2/cloudimages")
    assert seen == [image["id"] for image in orjson.loads(body)["images"]]
    assert len(set(seen)) == len(seen) > 30
    assert lookalike.call_counts["GET /v2/images"] == len(seen) // 7 + 1
    assert lookalike.call_counts["GET /v2/cloudimages"] == 1


async def test_an_answer_carries_a_request_id_and_no_validators(ask: Ask) -> None:
    """An answer has a request id, and nothing that speaks to caches."""
    response, _ = await ask("GET", "/v2/images")
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["X-Request-Id"]
    assert not {"ETag", "Cache-Control", "Vary", "X-Apig-RateLimit-User"} & set(response.headers)


@pytest.mark.parametrize("token", [None, "", "demo-token-unknown"])
@pytest.mark.parametrize("target", ["/v2/images", "/v2/cloudimages", "/nowhere"])
async def test_without_a_known_token_there_is_401(ask: Ask, token: str | None, target: str) -> None:
    """Without a token that is known every path is answered 401."""
    response, body = await ask("GET", target, token=token)
    assert response.status == 401
    assert set(orjson.loads(body)["error"]) == {"message", "code"}


async def test_two_tokens_are_none(lookalike: ImsLookalike) -> None:
    """Two tokens are answered 401."""
    fields = [("X-Auth-Token", "demo-token-alpha"), ("X-Auth-Token", "demo-token-beta")]
    async with (
        aiohttp.ClientSession(headers=fields) as client,
        client.get(f"{lookalike.base_url}/v2/images") as response,
    ):
        assert response.status == 401


@pytest.mark.parametrize(("target", "status"), [("/", 300), ("/versions", 200)])
async def test_versions_need_no_token_and_name_the_host_that_was_asked(ask: Ask, target: str, status: int) -> None:
    """The version documents are everyone's, with links to the host in `Host`."""
    response, body = await ask("GET", target, token=None, Host="ims.example:8080")
    assert response.status == status
    assert orjson.loads(body)["versions"][0]["links"][0]["href"] == "http://ims.example:8080/v2/"


@pytest.mark.parametrize("target", ["/v2/images/", "/v2/images.css", "/v2", "/v2/images/unknown", "/v2/schemas/none"])
async def test_not_found(ask: Ask, target: str) -> None:
    """A path that the API does not have, or an image that is unknown, is answered 404."""
    response, body = await ask("GET", target)
    assert response.status == 404
    assert orjson.loads(body)["error"]["code"] == "IMG.0027"


@pytest.mark.parametrize("method", ["HEAD", "PUT", "OPTIONS"])
async def test_other_methods_are_not_allowed_on_the_list(ask: Ask, method: str) -> None:
    """A list takes GET and POST, and says so."""
    response, _ = await ask(method, "/v2/images")
    assert (response.status, response.headers["Allow"]) == (405, "GET, POST")


async def test_the_raw_target_decides(lookalike: ImsLookalike, ask: Ask) -> None:
    """An encoded ampersand stays within its value, a semicolon separates, and the witness notes what was sent."""
    _, body = await ask("GET", "/v2/%69mages?limit=1;name=a%26b%3D")
    assert orjson.loads(body)["first"] == "/v2/images?limit=1&name=a%26b%3D"
    assert lookalike.calls[-1].target == "/v2/%69mages?limit=1;name=a%26b%3D"


async def test_bytes_that_are_not_utf_8_are_refused(ask: Ask) -> None:
    """A query that is not UTF-8 is answered 400."""
    response, _ = await ask("GET", "/v2/images?name=%FF")
    assert response.status == 400


async def exchanged(lookalike: ImsLookalike, request: bytes) -> bytes:
    """Send *request* as it is and return all that comes back; it must ask for the connection to be closed."""
    host, _, port = lookalike.base_url.removeprefix("http://").partition(":")
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


async def test_an_absolute_target_is_read_without_its_authority(lookalike: ImsLookalike) -> None:
    """The host in an absolute target says nothing."""
    request = b"GET http://evil.example/v2/images?limit=1 HTTP/1.1\r\nHost: a\r\nX-Auth-Token: demo-token-alpha\r\n"
    answer = await exchanged(lookalike, request + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"first":"/v2/images?limit=1"' in answer


async def test_a_client_that_expects_to_continue_is_told_to(lookalike: ImsLookalike) -> None:
    """`Expect: 100-continue` is answered before the body is read."""
    request = b"POST /v2/images HTTP/1.1\r\nHost: a\r\nX-Auth-Token: demo-token-alpha\r\nConnection: close\r\n"
    answer = await exchanged(lookalike, request + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")


async def test_tokens_of_tens_of_kilobytes_get_through(lookalike: ImsLookalike, ask: Ask) -> None:
    """A token of 60,000 characters is read."""
    lookalike.tokens["x" * 60_000] = TOKENS["demo-token-alpha"]
    response, _ = await ask("GET", "/v2/images", token="x" * 60_000)
    assert response.status == 200


async def test_an_image_alone_is_as_it_is_listed(ask: Ask) -> None:
    """An image has the same bytes alone and in a list."""
    _, listed = await ask("GET", "/v2/images?limit=1")
    image = orjson.loads(listed)["images"][0]
    _, alone = await ask("GET", image["self"])
    assert b'"images":[' + alone + b"]" in listed


async def test_the_life_of_an_image(ask: Ask) -> None:
    """Created, filled, changed, tagged, and deleted, and every step shows in the list at once."""
    response, _ = await ask("POST", "/v2/images", body={"name": "新"})
    assert (response.status, response.headers["Location"]) == (201, "/v2/images/new-id")
    response, _ = await ask("GET", "/v2/images/new-id/file")
    assert response.status == 204
    response, _ = await ask("PUT", "/v2/images/new-id/file", body=b"content")
    assert response.status == 204
    response, content = await ask("GET", "/v2/images/new-id/file")
    assert (response.headers["Content-Type"], content) == ("application/octet-stream", b"content")
    patch = [{"op": "add", "path": "/__platform", "value": "Fedora"}]
    response, _ = await ask("PATCH", "/v2/images/new-id", body=patch, **PATCH)
    assert response.status == 200
    response, _ = await ask("PUT", "/v2/images/new-id/tags/a%3Db")
    assert response.status == 204
    _, listed = await ask("GET", "/v2/images?__platform=Fedora&tag=a=b&status=active")
    assert [image["name"] for image in orjson.loads(listed)["images"]] == ["新"]
    response, _ = await ask("DELETE", "/v2/images/new-id/tags/a%3Db")
    assert response.status == 204
    response, _ = await ask("DELETE", "/v2/images/new-id")
    assert response.status == 204
    _, listed = await ask("GET", "/v2/images?__platform=Fedora")
    assert orjson.loads(listed)["images"] == []


async def test_an_image_is_shared(ask: Ask) -> None:
    """A shared image is its member's to see from acceptance to expulsion."""
    await ask("POST", "/v2/images", body={"id": "s", "visibility": "shared"})
    response, _ = await ask("POST", "/v2/images/s/members", body={"member": BETA_PROJECT})
    assert response.status == 200
    target = f"/v2/images/s/members/{BETA_PROJECT}"
    response, _ = await ask("PUT", target, body={"status": "accepted"}, token="demo-token-beta")
    assert response.status == 200
    _, body = await ask("GET", "/v2/images?id=s", token="demo-token-beta")
    assert len(orjson.loads(body)["images"]) == 1
    _, body = await ask("GET", "/v2/images/s/members")
    assert orjson.loads(body)["members"] == [orjson.loads((await ask("GET", target))[1])]
    response, _ = await ask("DELETE", target)
    assert response.status == 204
    response, _ = await ask("GET", "/v2/images/s", token="demo-token-beta")
    assert response.status == 404


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "status"),
    [
        pytest.param("POST", "/v2/images", b"{", {}, 400, id="not JSON"),
        pytest.param("PATCH", "/v2/images/x", b"[]", {"Content-Type": "application/json"}, 415, id="not a patch"),
        pytest.param("POST", "/v2/images/x/members", b"[]", {}, 404, id="no such image"),
    ],
)
async def test_writes_refused(
    ask: Ask, *, method: str, target: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    """A write that can't be read, or has nothing to change, is refused."""
    response, _ = await ask(method, target, body=body, **headers)
    assert response.status == status


async def test_a_body_has_a_bound(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is longer than the bound is answered 413."""
    monkeypatch.setattr(server, "MAX_BODY_BYTES", 3)
    response, _ = await ask("PUT", "/v2/images/x/file", body=b"four")
    assert response.status == 413


async def test_the_small_documents(lookalike: ImsLookalike, ask: Ask) -> None:
    """Schemas, systems and the quota are there, and the quota counts the images of its project."""
    for name in ("image", "images", "member", "members"):
        _, body = await ask("GET", f"/v2/schemas/{name}")
        assert orjson.loads(body)["name"] == name
    _, body = await ask("GET", "/v1/cloudimages/os_version")
    assert {"platform", "version_list"} == set(orjson.loads(body)[0])
    _, body = await ask("GET", "/v1/cloudimages/quota")
    used = sum(image.owner == ALPHA_PROJECT for image in lookalike.catalogue)
    assert orjson.loads(body)["quotas"]["resources"][0]["used"] == used
