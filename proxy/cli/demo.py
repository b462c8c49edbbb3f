"""`ims-proxy demo`: a proxy before the built-in image API, and what to try on it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

from proxy.config.model import Settings
from proxy.demo.app import ImsLookalike
from proxy.demo.seed import TOKENS, make_demo_catalogue
from proxy.demo.throttle import DEMO_POLICY
from proxy.runtime.app import RunningProxy, StopSignals
from proxy.runtime.app import run_proxy as proxy_running

_ALPHA_TOKEN: Final = "demo-token-alpha"  # noqa: S105 - of a look-alike
_BETA_TOKEN: Final = "demo-token-beta"  # noqa: S105

_INTRODUCTION: Final = """\
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


async def run_demo(settings: Settings, *, images: int, print_line: Callable[[str], object]) -> signal.Signals:
    """Run the demonstration until SIGTERM or SIGINT, and return which it was."""
    signals = StopSignals()
    async with ImsLookalike(make_demo_catalogue(images), TOKENS, throttle=DEMO_POLICY) as upstream:
        before = settings.model_copy(
            update={"upstream": settings.upstream.model_copy(update={"url": upstream.base_url})}
        )
        async with proxy_running(before, skip_delay=signals.skip_delay) as proxy:
            print_line(_introduction(proxy, upstream.base_url, images))
            return await signals.first_signal


def _introduction(proxy: RunningProxy, upstream: str, images: int) -> str:
    return _INTRODUCTION.format(
        url=proxy.url,
        admin=proxy.admin_url,
        upstream=upstream,
        images=images,
        calls=DEMO_POLICY.limit,
        alpha=_ALPHA_TOKEN,
        beta=_BETA_TOKEN,
    )
