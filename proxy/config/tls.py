"""TLS both ways: what is shown to callers, and what the upstream and IAM are asked with; renewed as the files are."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.config.reload import ReloadedValue
from proxy.core.tls_verification import STRICT_FLAGS

MIN_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

CertificatePair = tuple[Path, Path]


def make_server_context(
    pair: CertificatePair, *, min_version: str, clock: Callable[[], float] = time.monotonic
) -> ssl.SSLContext:
    """Return a context that shows every caller the certificate that the files of *pair* hold when it comes.

    Connections that are open keep theirs. A pair that does not match, as in the middle of a renewal, leaves the one
    before; at first it raises `OSError`.
    """
    newest = ReloadedValue(pair, lambda: _make_server_context(pair, min_version), clock=clock)

    def show(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:  # noqa: ARG001 - of a fixed shape
        connection.context = newest()

    context = _make_server_context(pair, min_version)
    context.sni_callback = show  # which OpenSSL calls for every handshake, also for one that names no server
    return context


def make_client_contexts(
    ca_file: Path | None,
    pair: CertificatePair | None,
    *,
    min_version: str,
    strict: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], ssl.SSLContext]:
    """Return what gives the context of a new connection: it trusts *ca_file*, else the system, and may show *pair*.

    With *strict*, certificates have the extensions that RFC 5280 requires. Raises `OSError` where a file can't be used
    at first.
    """
    files = [*([ca_file] if ca_file else []), *(pair or ())]
    return ReloadedValue(files, lambda: _make_client_context(ca_file, pair, min_version, strict=strict), clock=clock)


def _make_server_context(pair: CertificatePair, min_version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = MIN_VERSIONS[min_version]
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, pair)
    return context


def make_verifying_context(ca_file: Path | None, *, strict: bool = True) -> ssl.SSLContext:
    """Return a context that trusts *ca_file*, else the system, and verifies alike on every Python; see
    `make_client_contexts`.
    """
    context = ssl.create_default_context(cafile=ca_file)
    for flag in STRICT_FLAGS:
        context.verify_flags |= flag
    if not strict:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _make_client_context(
    ca_file: Path | None, pair: CertificatePair | None, min_version: str, *, strict: bool
) -> ssl.SSLContext:
    context = make_verifying_context(ca_file, strict=strict)
    context.minimum_version = MIN_VERSIONS[min_version]
    if pair is not None:
        _load_certificate(context, pair)
    return context


def _load_certificate(context: ssl.SSLContext, pair: CertificatePair) -> None:
    # Without a function for it a key with a passphrase would have one asked for on the terminal.
    context.load_cert_chain(*pair, password=lambda: b"")


def ca_file_problem(file: Path) -> str | None:
    """Return why *file* can't say whom to trust, None where it can."""
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        return "holds no certificate"
    except OSError as error:
        return error.strerror or "can't be read"
    return None


def pair_problem(pair: CertificatePair) -> tuple[int, str] | None:
    """Return which of *pair*, certificate and key, can't be used, and why; None where they can."""
    if fact := ca_file_problem(pair[0]):
        return 0, fact
    try:
        encrypted = b"ENCRYPTED" in pair[1].read_bytes()
        _load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return 1, "is not the key of the certificate"
        return 1, "has a passphrase" if encrypted else "holds no private key"
    except OSError as error:
        return 1, error.strerror or "can't be read"
    return None
