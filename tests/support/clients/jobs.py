"""What the client programs have in common: one job a line on stdin, one outcome a line on stdout, both JSON.

A job is `{"url": …, "token": …, "page_size": …, "filters": {…}, "sort": {…}}`, where *sort* has `sort_key` and
`sort_dir`, or `sort`, or nothing; an outcome is `{"ids": […]}` or `{"error": …}`.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

Job = dict[str, Any]


def serve(crawl: Callable[[Job], list[str]]) -> None:
    """Do jobs until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(_outcome(crawl, json.loads(line))), flush=True)


def _outcome(crawl: Callable[[Job], list[str]], job: Job) -> Job:
    try:
        return {"ids": crawl(job)}
    except Exception as error:  # noqa: BLE001 - whoever gave the job is told, and the next one is done all the same
        return {"error": f"{type(error).__name__}: {error}"}
