"""How certificates of servers are verified, alike on every Python, and what is said of one that is not accepted."""

from __future__ import annotations

import ssl
from typing import Final

# What Python 3.13 and newer ask of a server's certificates by default. It is set on every Python, so that an upgrade of
# Python changes nothing: extensions as RFC 5280 has them, and any certificate in the trusted file may end a chain.
STRICT_FLAGS: Final = (ssl.VERIFY_X509_STRICT, ssl.VERIFY_X509_PARTIAL_CHAIN)
# Results of OpenSSL's verification (X509_V_ERR_…).
_OTHER_NAME: Final = frozenset({62, 64})  # of which Python's own words quote the name
_NOT_STRICT: Final = frozenset({78, *range(80, 95)})  # which VERIFY_X509_STRICT alone leads to


def explain_verification_error(error: BaseException, *, remedy: str) -> str:
    """Return why a certificate was not accepted, without the name of a host.

    *remedy* is what to do to accept certificates that lack what RFC 5280 requires.
    """
    match error:
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_NAME:
            return "certificate not accepted, it is another host's"
        case ssl.SSLCertVerificationError(verify_code=code, verify_message=said) if code in _NOT_STRICT:
            return f"certificate not accepted, {said} (RFC 5280): renew it or its authority's, or {remedy}"
        case ssl.SSLCertVerificationError(verify_message=str(said)) if said:
            return f"certificate not accepted, {said}"
        case _:
            return "certificate not accepted"
