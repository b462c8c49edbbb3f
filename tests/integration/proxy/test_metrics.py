"""The metrics keep Prometheus' conventions, and the documents tell of each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.running import ALPHA, Proxy

ROOT = Path(__file__).parents[3]
OPERATING = (ROOT / "docs" / "operations.md").read_text()
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
NAME = re.compile(r"ims_proxy(?:_[a-z]+)+")
INCREASE = re.compile(r'increase\((\w+)(?:\{reason=~"([a-z_|]+)"\})?\[')


@pytest.fixture
async def families(proxy: Proxy) -> list[Metric]:
    """What the proxy exposes after a hit, a miss and an error."""
    for target in ("/v2/images?limit=5", "/v2/images?limit=5", "/v2/images/nowhere"):
        await proxy.client.ask(target, token=ALPHA)
    text = (await proxy.admin.ask("/metrics", token=None)).body.decode()
    return list(text_string_to_metric_families(text))


async def test_names_keep_the_conventions(families: list[Metric]) -> None:
    """One prefix, snake case, base units spelt out at the end, `_total` on counters alone; no type in a name."""
    for family in families:
        name, kind = family.name, family.type
        assert re.fullmatch(r"ims_proxy(_[a-z]+)+", name), name
        assert not re.search(r"_(gauge|counter|histogram|summary|metric)(_|$)", name), name
        assert not re.search(r"_(ms|millis\w*|minutes|hours|kb|mib|megabytes|percent)(_|$)", name), name
        assert not name.endswith(("_count", "_sum", "_bucket")), name
        assert not name.endswith("_total"), f"{name}: the parser takes `_total` off counters, so this is none"
        assert kind in ("counter", "gauge", "histogram"), name
        if kind == "counter":
            assert all(sample.name == f"{name}_total" for sample in family.samples), name
        if kind == "histogram":
            assert name.endswith("_seconds"), name


async def test_each_has_help_and_few_labels(families: list[Metric]) -> None:
    """A sentence without a full stop; labels in snake case, none that repeats the name, none of Prometheus' own."""
    for family in families:
        assert family.documentation, family.name
        assert family.documentation[0].isupper(), family.name
        assert not family.documentation.endswith("."), family.name
        for sample in family.samples:
            own = {"le"} if family.type == "histogram" else set()
            labels = set(sample.labels) - own
            assert len(labels) <= 3, sample
            assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in labels), sample
            assert not labels & {"job", "instance", "le", "quantile", "type"}, sample


async def test_every_metric_is_documented_and_nothing_else(families: list[Metric]) -> None:
    """The table in docs/operations.md names what is exposed."""
    exposed = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    table = OPERATING.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(ims_proxy\w+)`", table)) == exposed


async def test_alerts_name_metrics_that_are_exposed(families: list[Metric]) -> None:
    """Each alert has an expression, a severity and a summary; what it asks about is there."""
    exposed = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 0
    for rule in rules:
        assert set(NAME.findall(rule["expr"])) <= exposed, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]


async def test_what_an_alert_takes_the_increase_of_is_there_from_the_start(families: list[Metric]) -> None:
    """A series that begins at 1 has not increased to Prometheus, so the alert would miss what happened first."""
    samples = [sample for family in families for sample in family.samples]
    taken = INCREASE.findall(ALERTS.read_text())
    assert len(taken) == ALERTS.read_text().count("increase(") > 0
    for name, reasons in taken:
        found = [sample for sample in samples if sample.name == name]
        assert found, name
        assert set(filter(None, reasons.split("|"))) <= {sample.labels.get("reason") for sample in found}, name


def test_no_alert_counts_on_a_hit_to_be_there() -> None:
    """A proxy that never had a hit exposes no series of hits: what divides them alone by anything is empty, not 0."""
    asked = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert any('cache_status!="hit"' in each for each in asked)
    assert not [each for each in asked if 'cache_status="hit"' in each]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"GET /v2/images HTTP/1.1\r\nHost: x\r\nX-Auth-Token: " + b"a" * 70_000, 431, id="a long token"),
        pytest.param(b"GET /v2/images?name=" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x", 414, id="a long target"),
        pytest.param(b"\x16\x03\x01\x02\x00", 400, id="TLS"),
    ],
)
async def test_what_could_not_be_read_is_counted_too(proxy: Proxy, sent: bytes, status: int) -> None:
    """Whose token is too long is refused before any handler sees it; operators find that refusal among the others."""
    await proxy.client.raw(sent + b"\r\n\r\n")
    assert await _counted(proxy) == [{"route": "other", "cache_status": "error", "status": str(status)}]


async def test_an_absolute_target_is_counted_as_its_path(proxy: Proxy) -> None:
    """A caller that takes the proxy for an HTTP proxy asks for the same list."""
    token = f"X-Auth-Token: {ALPHA}".encode()
    await proxy.client.raw(b"GET http://x/v2/images HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + token + b"\r\n\r\n")
    assert [each["route"] for each in await _counted(proxy)] == ["list"]


async def _counted(proxy: Proxy) -> list[dict[str, str]]:
    """Return how the requests so far were counted."""
    text = (await proxy.admin.ask("/metrics", token=None)).body.decode()
    families = text_string_to_metric_families(text)
    return [sample.labels for each in families if each.name == "ims_proxy_requests" for sample in each.samples]


def test_every_event_is_documented_and_nothing_else() -> None:
    """The table in docs/operations.md names what may stand in the log."""
    said: set[str] = set()
    for file in (ROOT / "proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "log_event":
                texts = [each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)]
                said |= {each for each in texts if isinstance(each, str)}
    table = OPERATING.partition("\n## Log\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert set(re.findall(r"`([a-z_-]+)`", " ".join(rows))) == said
