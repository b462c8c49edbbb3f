"""What is wrong with settings that are each right by themselves, and with the files that they name."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from proxy.auth.api_keys import ApiKeysError, parse_api_keys
from proxy.config.model import IdentitySection, Settings, StoreSection
from proxy.config.reload import read_text
from proxy.config.tls import ca_file_problem, pair_problem
from proxy.storage.redis_connection import parse_options

_STORE_FILE_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})

SettingPath = tuple[str, str]
# A setting and what is wrong with it.
Violation = tuple[SettingPath, str]


def find_contradictions(settings: Settings) -> Iterator[Violation]:
    """Yield what is wrong with *settings*' identity, seal, workers and certificates, setting by setting."""
    identity = settings.identity
    if settings.server.workers > 1 and not settings.store.is_shared:
        yield ("server", "workers"), f"{settings.server.workers}, more than one only with a store.url that they share"
    if identity.mode == "project" and not identity.iam_url:
        yield ("identity", "mode"), "'project', which needs identity.iam_url"
    if identity.share_public and identity.mode == "token":
        yield ("identity", "share_public"), "true, which needs identity.mode 'project' or 'gateway'"
    if identity.mode == "gateway":
        yield from _check_own_identity(identity)
        if identity.api_keys_file is None and not is_loopback(settings.server.listen):
            fact = f"{settings.server.listen!r}, beyond loopback in mode 'gateway' only with identity.api_keys_file"
            yield ("server", "listen"), fact
    else:
        yield from _check_unused_credentials(identity)
    yield from _check_files(identity)
    yield from _check_store(settings.store)
    yield from _check_tls(settings)


def _check_tls(settings: Settings) -> Iterator[Violation]:
    """Yield what is wrong with certificates and keys: one without the other, one that can't be used."""
    server, upstream = settings.server, settings.upstream
    yield from _check_pair(("server", "tls_cert"), server.tls_cert, ("server", "tls_key"), server.tls_key)
    yield from _check_pair(
        ("upstream", "client_cert"), upstream.client_cert, ("upstream", "client_key"), upstream.client_key
    )
    if upstream.ca_file is not None and (fact := ca_file_problem(upstream.ca_file)):
        yield ("upstream", "ca_file"), f"{upstream.ca_file}: {fact}"
    asked = [url for url in (upstream.url, settings.identity.iam_url) if url]
    for name in ("ca_file", "client_cert"):
        if getattr(upstream, name) is not None and not any(url.startswith("https:") for url in asked):
            yield ("upstream", name), "given, which only an https upstream.url or identity.iam_url uses"


def _check_pair(
    cert_setting: SettingPath, cert: Path | None, key_setting: SettingPath, key: Path | None
) -> Iterator[Violation]:
    if cert is None and key is not None:
        yield key_setting, f"given without {'.'.join(cert_setting)}"
    elif cert is not None and key is None:
        yield cert_setting, f"given without {'.'.join(key_setting)}"
    elif cert is not None and key is not None and (fault := pair_problem((cert, key))):
        which, fact = fault
        yield (cert_setting, key_setting)[which], f"{(cert, key)[which]}: {fact}"


def _check_own_identity(identity: IdentitySection) -> Iterator[Violation]:
    """Yield what lacks of the proxy's own credentials: an access key with its secret, or a user with a password."""
    if (identity.access_key is None) == (identity.user is None):
        yield ("identity", "mode"), "'gateway', which needs identity.access_key or identity.user, one of them"
    elif identity.access_key is not None and identity.secret_key is None:
        yield ("identity", "access_key"), "given without identity.secret_key"
    elif identity.access_key is not None and identity.access_key_use == "token":
        yield from _check_token_exchange(identity)
    elif identity.user is not None:
        needed = {
            "password": identity.password,
            "domain": identity.domain,
            "project_id": identity.project_id,
            "iam_url": identity.iam_url,
        }
        lacking = [f"identity.{name}" for name, value in needed.items() if not value]
        if lacking:
            yield ("identity", "user"), f"given without {', '.join(lacking)}"
    if identity.access_keys:
        yield ("identity", "access_keys"), "given in mode 'gateway', where callers' signatures don't count"


def _check_token_exchange(identity: IdentitySection) -> Iterator[Violation]:
    """Yield what lacks of a token by access key."""
    lacking = [f"identity.{name}" for name in ("project_id", "iam_url") if not getattr(identity, name)]
    if lacking:
        yield ("identity", "access_key_use"), f"'token', given without {', '.join(lacking)}"
    if identity.security_token is not None:
        yield ("identity", "security_token"), "given, but IAM takes no temporary key for a token: only 'sign' does"


def _check_unused_credentials(identity: IdentitySection) -> Iterator[Violation]:
    for name in (
        "access_key",
        "secret_key",
        "security_token",
        "user",
        "domain",
        "password",
        "project_id",
        "api_keys_file",
    ):
        if getattr(identity, name):
            yield ("identity", name), "given, which only mode 'gateway' uses"
    if identity.allow_writes:
        yield ("identity", "allow_writes"), "true, which only mode 'gateway' uses"
    if identity.access_key_use != "sign":
        yield ("identity", "access_key_use"), f"{identity.access_key_use!r}, which only mode 'gateway' uses"


def _check_files(identity: IdentitySection) -> Iterator[Violation]:
    if identity.api_keys_file is not None:
        try:
            parse_api_keys(read_text(identity.api_keys_file))
        except (OSError, ApiKeysError) as error:
            yield ("identity", "api_keys_file"), f"{identity.api_keys_file}: {_error_reason(error)}"
    for access, path in identity.access_keys.items():
        reason = _unusable_reason(path)
        if reason:
            yield ("identity", "access_keys"), f"{access}: {path}: {reason}"


def _unusable_reason(path: Path) -> str | None:
    try:
        return None if read_text(path).strip() else "is empty"
    except OSError as error:
        return _error_reason(error)


def _error_reason(error: OSError | ApiKeysError) -> str:
    return (error.strerror or "can't be read") if isinstance(error, OSError) else str(error)


def _check_store(store: StoreSection) -> Iterator[Violation]:
    """Yield what is wrong with the seal, and with the files that the URL names."""
    for name, file in parse_options(store.url).items():
        if name in _STORE_FILE_OPTIONS and (reason := _unusable_reason(Path(file))):
            yield ("store", "url"), f"{name} {file}: {reason}"
    if store.seal != "none" and store.key is None:
        yield ("store", "seal"), f"{store.seal!r}, which needs store.key or store.key_file"
    if store.key_previous is not None and store.key is None:
        yield ("store", "key_previous"), "given without store.key"
    if store.seal == "encrypt" and find_spec("cryptography") is None:
        yield ("store", "seal"), "'encrypt', which needs the package cryptography: pip install 'ims-cache-proxy[seal]'"


def is_loopback(address: str) -> bool:
    """Whether *address*, HOST:PORT, can be reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
