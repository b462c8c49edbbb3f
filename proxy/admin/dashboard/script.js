"use strict";

const POLL_MS = 2000;
const WAIT_MS = 10000;
const LATE_S = 0.1; // as in deploy/prometheus/alerts.yaml
const KEPT = 90; // readings, three minutes of them
const BYTES = ["B", "KiB", "MiB", "GiB", "TiB"];

const at = (id) => document.getElementById(id);
const readings = [];
let token = "";
let timer = 0;

// Text is only ever put in as text: nothing that the proxy tells is taken for markup.
function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

const count = (value) => value.toLocaleString("en");
const share = (value) => (value === null ? "–" : `${Number((100 * value).toFixed(value > 0.99 && value < 1 ? 2 : 1))} %`);
const plural = (value, one) => `${count(value)} ${one}${value === 1 ? "" : "s"}`;

function bytes(value) {
  let unit = 0;
  while (value >= 1024 && unit < BYTES.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value.toFixed(unit && value < 100 ? 1 : 0)} ${BYTES[unit]}`;
}

function seconds(value) {
  if (value === null) return "–";
  if (value < 0.001) return `${(1e6 * value).toFixed(0)} µs`;
  return value < 0.9995 ? `${(1e3 * value).toFixed(value < 0.01 ? 1 : 0)} ms` : `${value.toFixed(1)} s`;
}

function period(value) {
  const [size, unit] = value >= 86400 ? [86400, "d"] : value >= 3600 ? [3600, "h"] : value >= 60 ? [60, "min"] : [1, "s"];
  return `${Number((value / size).toFixed(1))} ${unit}`;
}

const limitText = (limit) => `${count(limit.calls)} in ${period(limit.per_s)}`;

function pills(id, told) {
  at(id).replaceChildren(...told.filter(Boolean).map(([text, kind]) => element("li", text, `pill ${kind}`)));
}

function pairs(id, told) {
  at(id).replaceChildren(...told.filter(Boolean).flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
}

function figure(id, text, more) {
  at(id).replaceChildren(text, ...(more ? [" ", element("small", more)] : []));
}

function bar(id, part) {
  at(id).hidden = part === null;
  at(id).className = `bar${part > 0.95 ? " bad" : part > 0.75 ? " warn" : ""}`;
  at(id).firstElementChild.style.width = `${Math.min(100, 100 * (part || 0))}%`;
}

function showSavings(stats) {
  const { requests, upstream } = stats;
  const asked = upstream.saved + upstream.calls;
  figure("saved", count(upstream.saved), asked > 0 ? share(upstream.saved / asked) : "");
  at("saved-note").textContent = `${plural(asked, "answer")} cost ${plural(upstream.calls, "call")}`;
  figure("hit-ratio", share(requests.hit_ratio));
  at("hits-note").textContent = `${plural(requests.hits, "hit")}, ${count(requests.collapsed)} collapsed`;
}

function showTrend(stats) {
  const { total, hits } = stats.requests;
  const before = readings.at(-1);
  // A process that was restarted counts from nothing.
  if (before && (stats.uptime_s < before.uptime_s || total < before.total)) readings.length = 0;
  readings.push({ at: stats.timestamp, uptime_s: stats.uptime_s, total, hits });
  if (readings.length > KEPT + 1) readings.shift();
  const rates = readings.slice(1).map((each, index) => {
    const elapsed = Math.max(0.001, each.at - readings[index].at);
    return { all: (each.total - readings[index].total) / elapsed, hits: (each.hits - readings[index].hits) / elapsed };
  });
  const latest = rates.at(-1);
  figure("rate", latest ? latest.all.toFixed(latest.all < 10 ? 1 : 0) : "–", latest && latest.all > 0 ? `${share(latest.hits / latest.all)} hits` : "");
  const most = Math.max(1, ...rates.map((each) => each.all));
  for (const [id, name] of [["trend-all", "all"], ["trend-hits", "hits"]]) {
    const points = rates.map((each, index) => `${(300 * (KEPT - rates.length + index)) / (KEPT - 1)},${64 - (62 * each[name]) / most}`);
    const first = (300 * (KEPT - rates.length)) / (KEPT - 1);
    at(id).setAttribute("d", points.length > 1 ? `M${first},64 L${points.join(" L")} L300,64 Z` : "");
  }
}

function showBudget(budget) {
  if (budget.limit) figure("budget", count(budget.used), `of ${limitText(budget.limit)}`);
  else figure("budget", "no limit known", "");
  bar("budget-bar", budget.limit && budget.used / budget.limit.calls);
  const without = budget.without_store;
  pills("budget-pills", [
    without && [without.no_calls_for_s
      ? `without the store: no calls for ${period(without.no_calls_for_s)}`
      : `without the store: this replica has ${without.share} of what was left`, "warn"],
    budget.cooldowns ? [`cooldown: ${period(budget.cooldown_s)} left`, "bad"] : ["no cooldown", "good"],
    budget.low ? [`prefetch off: ${plural(budget.low, "budget")} low`, "warn"] : ["prefetch on", "good"],
    budget.queued && [`${plural(budget.queued, "call")} queued`, "warn"],
  ]);
  pairs("budget-list", [
    ...Object.entries(budget.advertised_limits).map(([name, limit]) => [`upstream's limit: ${name}`, limitText(limit)]),
    ...Object.entries(budget.background_skipped).map(([name, times]) => [`skipped: ${name}`, count(times)]),
    budget.rejected && ["calls rejected: budget exhausted", count(budget.rejected)],
  ]);
}

function showUpstream({ upstream, circuit_breaker: circuit, concurrency }) {
  figure("calls", count(upstream.calls), upstream.calls === 1 ? "call" : "calls");
  pills("upstream-pills", [
    circuit.open ? [`circuit open, next probe in ${period(circuit.retry_in_s)}`, "bad"] : ["circuit closed", "good"],
    [`${concurrency.in_flight} of ${concurrency.limit} calls in flight`, concurrency.in_flight < concurrency.limit ? "" : "warn"],
  ]);
  pairs("purposes", [
    ...Object.entries(upstream.by_purpose).map(([name, calls]) => [name, count(calls)]),
    upstream.retried && ["retried", count(upstream.retried)],
    upstream.throttled && ["throttled by upstream (429)", count(upstream.throttled)],
    circuit.rejected && ["calls rejected: circuit open", count(circuit.rejected)],
  ]);
}

function row(name, cells) {
  const made = document.createElement("tr");
  const head = element("th", name);
  head.scope = "row";
  made.append(head, ...cells.map((text) => element("td", text)));
  return made;
}

function showLatency(told, loop) {
  const rows = [["hit", told.hit], ["forwarded", told.forwarded]];
  at("latency").replaceChildren(...rows.map(([name, each]) => row(name, [seconds(each.p50_s), seconds(each.p99_s)])));
  pills("latency-pills", [[`event loop lag ${seconds(loop.lag_s)}`, loop.lag_s > LATE_S ? "warn" : "good"]]);
}

function showStore(store) {
  figure("store", bytes(store.bytes), `of ${bytes(store.max_bytes)}`);
  bar("store-bar", store.max_bytes ? store.bytes / store.max_bytes : null);
  pills("store-pills", Object.entries(store.parts).map(([name, said]) => [said === "ok" ? name : `${name}: ${said}`, said === "ok" ? "good" : "bad"]));
  pairs("store-list", [
    ["listings", count(store.listings)],
    ["spans", count(store.spans)],
    store.replicas > 1 && ["replicas", count(store.replicas)],
    ...Object.entries(store.errors).map(([name, times]) => [`failed: ${name}`, count(times)]),
  ]);
}

function showRoutes(table) {
  const statuses = [...new Set(Object.values(table).flatMap((cells) => Object.keys(cells)))].sort();
  const head = document.createElement("tr");
  head.append(element("td", ""), ...statuses.map((name) => element("th", name)));
  const body = Object.entries(table).map(([name, cells]) => row(name, statuses.map((status) => (status in cells ? count(cells[status]) : ""))));
  const [top, rest] = [document.createElement("thead"), document.createElement("tbody")];
  top.append(head);
  rest.append(...body);
  if (!body.length) rest.append(row("none yet", []));
  at("routes").replaceChildren(top, rest);
}

function show(stats) {
  const processes = stats.processes > 1 ? `, ${stats.processes} processes` : "";
  at("version").textContent = `${stats.version}${processes}, up ${period(stats.uptime_s)}`;
  showSavings(stats);
  showTrend(stats);
  showBudget(stats.budget);
  showUpstream(stats);
  showLatency(stats.requests.duration, stats.event_loop);
  showStore(stats.store);
  showRoutes(stats.requests.by_route);
  at("login").hidden = true;
  at("figures").hidden = false;
  state("live", "good");
}

function state(text, kind) {
  if (at("state").textContent !== text) at("state").textContent = text;
  at("state").className = `pill ${kind}`;
}

function asked(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  return fetch(path, { headers, signal: AbortSignal.timeout(WAIT_MS), credentials: "omit" });
}

async function explain(target) {
  try {
    const answer = await asked(`explain?target=${encodeURIComponent(target)}`);
    const told = await answer.json();
    const lines = answer.ok ? Object.entries(told) : [["", told.error_msg]];
    pairs("explanation", lines.flatMap(([name, text]) => [text].flat().map((each) => [name.replace("_", " "), each])));
  } catch (error) {
    pairs("explanation", [["", "not answered"]]);
  }
}

async function poll() {
  clearTimeout(timer);
  try {
    const answer = await asked("stats");
    if (answer.status === 401) return askForToken();
    if (!answer.ok) throw new Error(`answered ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    state(error instanceof TypeError || error.name === "TimeoutError" ? "proxy not reached, still trying" : error.message, "bad");
  }
  if (!document.hidden) timer = setTimeout(poll, POLL_MS);
}

function askForToken() {
  at("login-error").hidden = token === "";
  token = "";
  at("figures").hidden = true;
  at("login").hidden = false;
  at("token").focus();
  state("token needed", "warn");
}

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  at("token").value = "";
  poll();
});
at("explain").addEventListener("submit", (event) => {
  event.preventDefault();
  explain(at("target").value);
});
document.addEventListener("visibilitychange", () => document.hidden || poll());
poll();
