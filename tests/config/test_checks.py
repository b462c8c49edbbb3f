"""What `identity`, `store.seal` and `server.workers` need together, told before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.loading import ConfigurationError, load

SIGNING = {"MODE": "gateway", "ACCESS_KEY": "AK", "SECRET_KEY": "a made-up secret"}
EXCHANGED = {"ACCESS_KEY_USE": "token", "PROJECT_ID": "p", "IAM_URL": "http://iam"}
PASSWORD = {
    "MODE": "gateway",
    "USER": "u",
    "DOMAIN": "d",
    "PASSWORD": "a made-up password",
    "PROJECT_ID": "p",
    "IAM_URL": "http://iam",
}


def problems(identity: dict[str, str], **others: str) -> list[str]:
    """Return what is wrong with these settings, by setting."""
    environment = {"IMS_PROXY_UPSTREAM__URL": "http://ims"} | {
        f"IMS_PROXY_{name}": each for name, each in others.items()
    }
    environment |= {f"IMS_PROXY_IDENTITY__{name}": value for name, value in identity.items()}
    try:
        load(None, environment, {})
    except ConfigurationError as error:
        return [problem.setting for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("identity", "wrong"),
    [
        pytest.param({}, [], id="token mode needs nothing"),
        pytest.param({"MODE": "project", "IAM_URL": "http://iam/identity"}, [], id="project mode with IAM"),
        pytest.param({"MODE": "project"}, ["identity.mode"], id="project mode without IAM"),
        pytest.param({"SHARE_PUBLIC": "true"}, ["identity.share_public"], id="public lists of the unverified"),
        pytest.param(SIGNING, [], id="a key"),
        pytest.param(PASSWORD, [], id="a password"),
        pytest.param(SIGNING | EXCHANGED, [], id="a token by key"),
        pytest.param(
            SIGNING | {"ACCESS_KEY_USE": "token"}, ["identity.access_key_use"], id="a token by key without IAM"
        ),
        pytest.param(
            SIGNING | EXCHANGED | {"SECURITY_TOKEN": "t"}, ["identity.security_token"], id="a token by a temporary key"
        ),
        pytest.param({"ACCESS_KEY_USE": "token"}, ["identity.access_key_use"], id="a token by key in token mode"),
        pytest.param({"MODE": "gateway"}, ["identity.mode"], id="no credentials"),
        pytest.param(SIGNING | PASSWORD, ["identity.mode"], id="two kinds of credentials"),
        pytest.param({"MODE": "gateway", "ACCESS_KEY": "AK"}, ["identity.access_key"], id="a key without its secret"),
        pytest.param(PASSWORD | {"IAM_URL": "", "DOMAIN": "d"}, ["identity.user"], id="a password without IAM"),
        pytest.param({"ACCESS_KEY": "AK"}, ["identity.access_key"], id="a key in token mode, where it does nothing"),
        pytest.param({"ALLOW_WRITES": "true"}, ["identity.allow_writes"], id="writes in token mode"),
        pytest.param(
            {"ACCESS_KEYS": "AK=/nowhere/secret"}, ["identity.access_keys"], id="a key's file that is not there"
        ),
        pytest.param(
            SIGNING | {"API_KEYS_FILE": "/nowhere/callers"}, ["identity.api_keys_file"], id="no callers' file"
        ),
    ],
)
def test_identity_is_consistent(identity: dict[str, str], wrong: list[str]) -> None:
    """A mode has what it needs, and nothing is set that would do nothing."""
    assert problems(identity) == wrong


@pytest.mark.parametrize(
    ("store", "wrong"), [("memory://", ["server.workers"]), ("redis://127.0.0.1:6379/0", [])], ids=["memory", "Redis"]
)
def test_workers_need_a_store_that_they_share(store: str, wrong: list[str]) -> None:
    """A write through one worker would not reach the memory of another."""
    assert problems({}, SERVER__WORKERS="2", STORE__URL=store) == wrong


def test_a_gateway_beyond_loopback_needs_callers(tmp_path: Path) -> None:
    """Whoever reaches it would use the proxy's own credentials."""
    assert problems(SIGNING, SERVER__LISTEN="0.0.0.0:8080") == ["server.listen"]
    file = tmp_path / "callers.toml"
    file.write_text('[ci]\nkey = "0123456789abcdef"\n')
    assert problems(SIGNING | {"API_KEYS_FILE": str(file)}, SERVER__LISTEN="0.0.0.0:8080") == []


@pytest.mark.parametrize("seal", ["mac", "encrypt"])
def test_a_seal_needs_its_key(seal: str) -> None:
    """Without a key nothing is sealed, and that is said."""
    assert problems({}, STORE__SEAL=seal) == ["store.seal"]
    assert problems({}, STORE__SEAL=seal, STORE__KEY="sixteen letters and more") == []
    assert problems({}, STORE__KEY_PREVIOUS="sixteen letters and more") == ["store.key_previous"]


def test_encryption_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `cryptography` is missing, `check` names what to install."""
    monkeypatch.setattr("proxy.config.checks.find_spec", lambda _: None)
    assert problems({}, STORE__SEAL="encrypt", STORE__KEY="sixteen letters and more") == ["store.seal"]


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        pytest.param({"SERVER__TLS_KEY": "k"}, ["server.tls_key"], id="a key alone"),
        pytest.param({"SERVER__TLS_CERT": "c"}, ["server.tls_cert"], id="a certificate alone"),
        pytest.param(
            {"UPSTREAM__URL": "https://ims", "UPSTREAM__CLIENT_KEY": "k"}, ["upstream.client_key"], id="a client's key"
        ),
        pytest.param(
            {"UPSTREAM__URL": "https://ims", "UPSTREAM__CA_FILE": "/nowhere/ca.pem"},
            ["upstream.ca_file"],
            id="no authority",
        ),
        pytest.param(
            {"UPSTREAM__CA_FILE": "/nowhere/ca.pem"}, ["upstream.ca_file", "upstream.ca_file"], id="nobody to trust"
        ),
    ],
)
def test_certificates_are_consistent(given: dict[str, str], wrong: list[str]) -> None:
    """A certificate has its key, and nothing is set that would do nothing."""
    assert problems({}, **given) == wrong
