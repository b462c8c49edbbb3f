"""`ims-proxy demo`: a proxy before the built-in image API, and what to try on it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

from proxy.config.model import Settings
from proxy.demo.app import Lookalike
from proxy.demo.seed import TOKENS, demo_catalogue
from proxy.demo.throttle import DEMO_POLICY
from proxy.runtime.app import Running, StopSignals
from proxy.runtime.app import running as proxy_running

_ALPHA: Final = "demo-token-alpha"
_BETA: Final = "demo-token-beta"

_TEXT: Final = """\
ims-proxy {url} -> a built-in image API at {upstream}
{images} images, two projects; the API allows {calls} calls a minute for each user, as Huawei Cloud throttles

Try:
  curl -si '{url}/v2/images?limit=2' -H 'X-Auth-Token: {alpha}'
      the first page; again: Cache-Status says hit
  curl -s '{url}/v2/images?visibility=public&limit=1' -H 'X-Auth-Token: {beta}'
      another project, another list; `next` pages through the proxy
  curl -s {admin}/metrics | grep '^ims_proxy_upstream_calls_total'
      what all of it cost upstream; {admin}/ shows it in a browser

Ctrl-C stops it.
"""


async def run_demo(settings: Settings, *, images: int, say: Callable[[str], object]) -> signal.Signals:
    """Run the demonstration until SIGTERM or SIGINT, and return which it was."""
    signals = StopSignals()
    async with Lookalike(demo_catalogue(images), TOKENS, throttle=DEMO_POLICY) as upstream:
        before = settings.model_copy(
            update={"upstream": settings.upstream.model_copy(update={"url": upstream.base_url})}
        )
        async with proxy_running(before, skip_delay=signals.skip_delay) as proxy:
            say(_introduction(proxy, upstream.base_url, images))
            return await signals.first


def _introduction(proxy: Running, upstream: str, images: int) -> str:
    return _TEXT.format(
        url=proxy.url,
        admin=proxy.admin_url,
        upstream=upstream,
        images=images,
        calls=DEMO_POLICY.limit,
        alpha=_ALPHA,
        beta=_BETA,
    )
