"""The proxy's own key while its files change."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from proxy.config.model import IdentitySection
from proxy.core.messages import Fields, Request
from proxy.core.signing import find_signature_fault, parse_signature
from proxy.runtime.container import make_identity_reader, make_upstream_auth

SECRETS = {"AK-ONE": "the first secret", "AK-TWO": "the second secret"}


async def test_no_request_is_signed_by_a_key_with_the_secret_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation that writes file after file, and empties each first, makes no bad signature; five lock a key."""
    monkeypatch.setattr("proxy.config.reload.CHECK_INTERVAL_S", 0.0)
    access, secret = tmp_path / "access", tmp_path / "secret"
    access.write_text("AK-ONE\n")
    secret.write_text(SECRETS["AK-ONE"])
    section = IdentitySection.model_validate(
        {"mode": "gateway", "access_key": "AK-ONE", "secret_key": "-", "project_id": "p"}
        | {"access_key_file": access, "secret_key_file": secret}
    )
    read = make_identity_reader(section, host="ims")
    signing = make_upstream_auth(section, lambda _: read(), host="ims", iam=None, secrets=None)

    async def signer() -> str:
        signed = await signing.apply(Request("GET", "/v2/images", Fields(()), request_id=""))
        given = parse_signature(signed.fields)
        assert given is not None
        assert find_signature_fault(signed, given, SECRETS[given.access_key], now=time.time()) is None
        return given.access_key

    assert await signer() == "AK-ONE"
    for file, text in ((access, ""), (access, "AK-TWO"), (secret, ""), (secret, SECRETS["AK-TWO"])):
        file.write_text(text)
        assert await signer() == "AK-ONE"
    assert await signer() == "AK-TWO"
    assert read().names[0] == "AK-TWO"
