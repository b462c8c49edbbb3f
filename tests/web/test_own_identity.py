"""The proxy's own key while its files change."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from proxy.config.model import IdentitySection
from proxy.core.messages import Fields, Request
from proxy.core.signing import flaw, signature
from proxy.runtime.container import credential, own_identity

SECRETS = {"AK-ONE": "the first secret", "AK-TWO": "the second secret"}


async def test_no_request_is_signed_by_a_key_with_the_secret_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation that writes file after file, and empties each first, makes no bad signature; five lock a key."""
    monkeypatch.setattr("proxy.config.reload.LOOK_S", 0.0)
    access, secret = tmp_path / "access", tmp_path / "secret"
    access.write_text("AK-ONE\n")
    secret.write_text(SECRETS["AK-ONE"])
    section = IdentitySection.model_validate(
        {"mode": "gateway", "access_key": "AK-ONE", "secret_key": "-", "project_id": "p"}
        | {"access_key_file": access, "secret_key_file": secret}
    )
    read = own_identity(section, host="ims")
    signing = credential(section, lambda _: read(), host="ims", iam=None, vault=None)

    async def signer() -> str:
        signed = await signing.put(Request("GET", "/v2/images", Fields(()), request_id=""))
        given = signature(signed.fields)
        assert given is not None
        assert flaw(signed, given, SECRETS[given.access], now=time.time()) is None
        return given.access

    assert await signer() == "AK-ONE"
    for file, text in ((access, ""), (access, "AK-TWO"), (secret, ""), (secret, SECRETS["AK-TWO"])):
        file.write_text(text)
        assert await signer() == "AK-ONE"
    assert await signer() == "AK-TWO"
    assert read().names[0] == "AK-TWO"
