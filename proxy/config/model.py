"""Every setting: its name, unit, bounds, default, and what it does in one line.

Values are passed on; nothing below the composition root sees a settings object. `config/loading.py` says where they
come from. Effective settings are shown as TOML, without what is secret.
"""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from proxy.config.types import (
    BaseUrl,
    FieldSecret,
    FilePath,
    FilesByKey,
    HostPort,
    IamUrl,
    MaxWait,
    Networks,
    Origin,
    PathPattern,
    Seconds,
    StoreUrl,
)
from proxy.core.list_query import UnclearQuery, Window, parse_list_query


def _is_number(annotation: object) -> bool:
    return annotation in (int, float) or any(map(_is_number, get_args(annotation)))


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_boolean(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true for 1: pydantic, which has to take what the environment holds for a number, takes that too."""
        if isinstance(value, bool) and info.field_name and _is_number(cls.model_fields[info.field_name].annotation):
            raise ValueError("a number")
        return value


class ServerSection(Section):
    """Where callers come."""

    listen: HostPort = Field("127.0.0.1:8080", description="the address that clients connect to, HOST:PORT")
    workers: int = Field(
        1, ge=1, le=256, description="processes that share the port; more than one share what they store through Redis"
    )
    tls_cert: FilePath | None = Field(
        None, description="the certificate shown to callers with those above it, PEM; read again when it changes"
    )
    tls_key: FilePath | None = Field(None, description="the private key of `tls_cert`, PEM, without a passphrase")
    tls_min_version: Literal["1.2", "1.3"] = Field("1.2", description="the lowest TLS version for clients")
    links: Literal["relative", "absolute"] = Field(
        "relative",
        description="`relative`: host-relative, right for every known client; "
        "`absolute`: on `public_url`, or on what a trusted proxy says",
    )
    public_url: BaseUrl = Field("", description="the base of absolute links")
    trusted_proxies: Networks = Field(
        (), description="networks whose `Forwarded` and `X-Forwarded-*` fields are believed for absolute links"
    )
    drain_delay_s: Seconds = Field(
        0.0,
        description="on SIGTERM: not ready at once, but for so long callers are still accepted and answered, "
        "until load balancers have noticed; SIGINT or a second SIGTERM skips it",
    )
    drain_s: Seconds = Field(
        30.0, description="after `drain_delay_s` nobody new is accepted, and what is running has this long to finish"
    )
    max_concurrent: int = Field(
        10_000, ge=1, le=1_000_000, description="requests in progress at once, 503 beyond; identical hits don't count"
    )


class UpstreamSection(Section):
    """The image API behind the proxy."""

    url: Origin = Field(description="the one origin that requests go to, such as https://ims.eu-de.example.com")
    ca_file: FilePath | None = Field(
        None, description="certificates to trust instead of the system's, for IAM too, PEM; read again when it changes"
    )
    client_cert: FilePath | None = Field(
        None, description="the certificate shown to an upstream or IAM that asks for one, PEM; read again as `ca_file`"
    )
    client_key: FilePath | None = Field(None, description="the private key of `client_cert`, PEM, without a passphrase")
    tls_min_version: Literal["1.2", "1.3"] = Field("1.2", description="the lowest TLS version for the upstream and IAM")
    tls_strict: bool = Field(
        True,
        description="whether certificates of the upstream and IAM need the extensions that RFC 5280 requires, "
        "such as an Authority Key Identifier",
    )
    connect_timeout_s: MaxWait = Field(3.0, description="longest wait for a connection")
    read_timeout_s: MaxWait = Field(30.0, description="longest wait for the next bytes of an answer")
    max_connections: int = Field(
        64, ge=1, le=10_000, description="connections open at once; the calls under way follow latency, up to as many"
    )
    retries: int = Field(2, ge=0, le=10, description="how often a failed read is retried, within the budget; 0 never")
    circuit_breaker_failures: int = Field(
        10, ge=1, le=1_000_000, description="consecutive failed calls after which the circuit breaker opens"
    )
    max_page: int = Field(1000, ge=1, le=100_000, description="the upstream's largest page")
    list_api: Literal["native", "cloudimages"] = Field(
        "native",
        description="where `/v2/images` lists come from: `cloudimages` outlives the native list at Huawei Cloud",
    )
    default_page: int = Field(25, ge=1, le=100_000, description="what `/v2/images` gives when no `limit` is sent")
    default_page_cloudimages: int = Field(
        500, ge=1, le=100_000, description="what `/v2/cloudimages` gives when no `limit` is sent"
    )


class IdentitySection(Section):
    """Who may share an answer."""

    mode: Literal["token", "project", "gateway"] = Field(
        "token",
        description="`token`: an answer is shared only among requests with the same token; "
        "`project`: IAM verifies tokens, and answers are shared by project and roles; "
        "`gateway`: callers need no cloud credentials, the proxy uses its own",
    )
    secret: SecretStr | None = Field(
        None,
        min_length=16,
        description="key of the digests that stand for tokens; without it one is made and shared through the store",
    )
    verdict_ttl_s: Seconds = Field(
        300.0, description="how long the upstream's acceptance of a token, or IAM's, is believed; 0 asks every time"
    )
    verdict_grace_s: Seconds = Field(0.0, description="how much longer while the upstream or IAM fails")
    secret_file: FilePath | None = Field(None, description="a file that holds `secret`")
    iam_url: IamUrl = Field(
        "", description="IAM or Keystone, what stands before `/v3`; it verifies tokens and issues the proxy's own"
    )
    share_public: bool = Field(
        False, description="lists with `visibility=public` are shared by all callers that are verified"
    )
    access_keys: FilesByKey = Field(
        {}, description="access keys whose signatures are verified, each with the file of its secret: `AK=FILE,…`"
    )
    access_key: str | None = Field(
        None,
        min_length=1,
        pattern=r"^[!-+\--~]*$",
        description="`gateway`: the access key that signs what goes upstream",
    )
    access_key_file: FilePath | None = Field(
        None, description="a file that holds `access_key`, read again when it changes"
    )
    secret_key: SecretStr | None = Field(None, min_length=1, description="`gateway`: the secret of `access_key`")
    secret_key_file: FilePath | None = Field(
        None, description="a file that holds `secret_key`, read again when it changes"
    )
    access_key_use: Literal["sign", "token"] = Field(
        "sign",
        description="`gateway`: what `access_key` is for: it signs what goes upstream, or a `token` is fetched by it",
    )
    security_token: FieldSecret | None = Field(
        None, min_length=1, description="`gateway`: the token of a temporary `access_key`"
    )
    security_token_file: FilePath | None = Field(
        None, description="a file that holds `security_token`, read again when it changes"
    )
    user: str | None = Field(
        None, min_length=1, description="`gateway`, in place of `access_key`: the user a token is fetched for"
    )
    domain: str | None = Field(None, min_length=1, description="the name of the domain, or account, of `user`")
    password: SecretStr | None = Field(None, min_length=1, description="the password of `user`")
    password_file: FilePath | None = Field(None, description="a file that holds `password`, read again when it changes")
    project_id: str | None = Field(
        None, min_length=1, pattern=r"^[!-~]*$", description="`gateway`: the project that the proxy speaks for"
    )
    api_keys_file: FilePath | None = Field(
        None,
        description="`gateway`: a file of callers, a table for each with its `key` and `allow_writes`; "
        "required to listen beyond loopback",
    )
    allow_writes: bool = Field(False, description="`gateway` without `api_keys_file`: whether they may write")


class RuleSection(Section):
    """A rule of `cache.rules`: what it does not name is as for all lists."""

    path: Literal["/v2/images", "/v2/cloudimages"] | None = Field(
        None, description="the list's path, either if not given"
    )
    query: str = Field("", description="parameters that the list's query must hold, such as `visibility=public`")
    ttl_s: Seconds | None = Field(None, description="as `cache.ttl_s`")
    transient_ttl_s: Seconds | None = Field(None, description="as `cache.transient_ttl_s`")
    stale_while_revalidate_s: Seconds | None = Field(None, description="as `cache.stale_while_revalidate_s`")
    stale_if_error_s: Seconds | None = Field(None, description="as `cache.stale_if_error_s`")

    @field_validator("query")
    @classmethod
    def _check_listing_query(cls, value: str) -> str:
        query = parse_list_query(value)
        if isinstance(query, UnclearQuery) or query.window != Window():
            raise ValueError("a list query without limit and marker")
        return value


class RouteSection(Section):
    """A route of `cache.routes`: single resources that are answered from the store by RFC 9111."""

    path: PathPattern = Field(
        description="what their path is like: `*` stands for a segment or a part of one, `**` for any number of them"
    )
    ttl_s: Seconds = Field(0.0, description="lifetime of a 200 where the upstream states none")
    heuristic_fraction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="lifetime where neither is there: this share of the time since `Last-Modified` (RFC 9111 §4.2.2)",
    )
    stale_while_revalidate_s: Seconds | None = Field(None, description="as `cache.stale_while_revalidate_s`")
    stale_if_error_s: Seconds | None = Field(None, description="as `cache.stale_if_error_s`")
    public: bool = Field(False, description="whether one answer is everyone's, whatever credentials they have")
    honor_vary: bool = Field(
        False,
        description="whether all that callers send goes up, and the upstream's `Vary` tells what of it counts; "
        "without it only what counts goes up",
    )


class CacheSection(Section):
    """How long answers are kept."""

    ttl_s: Seconds = Field(60.0, description="lifetime of a list span, less up to a tenth; 0 stores nothing")
    transient_ttl_s: Seconds = Field(2.0, description="lifetime of a span in which an image is about to change")

    negative_ttl_s: Seconds = Field(5.0, description="how long a 400 or 404 to a list is remembered, in its partition")
    stale_while_revalidate_s: Seconds = Field(
        60.0, description="how long after its lifetime a span is given while it is fetched anew (RFC 5861)"
    )
    stale_if_error_s: Seconds = Field(
        3600.0, description="how long after its lifetime a span is given while the upstream fails (RFC 5861)"
    )
    readahead: bool = Field(True, description="whether spans may be longer than the caller's page")
    rules: tuple[RuleSection, ...] = Field(
        (), description="lifetimes of some lists, the first rule that matches counts"
    )
    routes: tuple[RouteSection, ...] = Field(
        (),
        description="more resources to be answered from the store, the first route that matches counts; "
        "images, schemas, `os_version` and `quota` come after them",
    )
    item_from_list: bool = Field(
        False,
        description="whether an image in a fresh list of the same partition answers `GET /v2/images/{id}`; "
        "in Glance the two are equal",
    )
    max_resource_bytes: int = Field(
        1024 * 1024,
        ge=0,
        le=64 * 1024 * 1024,
        description="longest body of a resource that is kept; others are streamed",
    )


class StoreSection(Section):
    """Where answers are kept."""

    url: StoreUrl = Field(
        "memory://",
        repr=False,  # it may hold a password
        description="`memory://`; `redis://HOST:PORT/DB`; `redis+sentinel://HOST:PORT,…/SERVICE`; "
        "`redis+cluster://HOST:PORT,…`; by TLS `rediss://…`, `rediss+sentinel://…`, `rediss+cluster://…`",
    )
    max_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="limit of process memory for answers, bytes; 0 keeps none"
    )
    near_cache_ttl_s: MaxWait = Field(
        1.0, description="how long process memory is used while invalidations by other replicas can't arrive"
    )
    timeout_ms: float = Field(
        500.0,
        gt=0,
        le=60_000,
        description="the longest a request waits for Redis in all, milliseconds; the proxy's own delay does not count",
    )
    outage_mode: Literal["consistent", "available"] = Field(
        "consistent",
        description="while Redis is away and other replicas were lately seen, process memory is used for "
        "`near_cache_ttl_s` (`consistent`), or to the end of its lifetimes (`available`: writes through others show "
        "after `cache.ttl_s`)",
    )
    prefix: str = Field(
        "ims-proxy:",
        max_length=64,
        pattern=r"^[^{}\s]*$",
        description="prefix of every key in Redis; a digest of `upstream.url` follows",
    )
    seal: Literal["none", "mac", "encrypt"] = Field(
        "none",
        description="`mac`: a value in Redis that was altered or moved is none; `encrypt`: nor can its images be read",
    )
    key: SecretStr | None = Field(
        None, min_length=16, description="the key of `seal`; it also replaces `identity.secret` if that is not set"
    )
    key_file: FilePath | None = Field(None, description="a file that holds `key`")
    key_previous: SecretStr | None = Field(
        None, min_length=16, description="the `key` before, still accepted while it is replaced"
    )
    key_previous_file: FilePath | None = Field(None, description="a file that holds `key_previous`")

    @property
    def is_shared(self) -> bool:
        """Whether replicas share the store; `memory://` is one process's own."""
        return not self.url.startswith("memory:")

    @property
    def sealing_keys(self) -> list[str]:
        """The keys that values are sealed with, the present one first."""
        return [key.get_secret_value() for key in (self.key, self.key_previous) if key is not None]


class BudgetSection(Section):
    """How many calls the upstream may see."""

    calls: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="upstream calls allowed in any `per_s`; if not set, the limit that the upstream advertises",
    )
    per_s: MaxWait | None = Field(None, description="the period of `calls`")
    scope: Literal["partition", "upstream"] = Field(
        "partition", description="each partition has its own (Huawei Cloud throttles users), or one for all"
    )
    max_wait_s: MaxWait = Field(
        30.0, description="longest wait for a call; a request that can't be served by then gets 429 at once"
    )
    without_store: Literal["share", "hold"] = Field(
        "share",
        description="while replicas can't count together, because Redis is away or came back empty: "
        "`share`: each goes on at once with its part of what was left, and all of them may exceed `calls` by a stated "
        "bound; `hold`: no calls until all earlier ones have expired, then parts: never more than `calls`",
    )


class ClientsSection(Section):
    """What one caller may ask: a caller is an API key, a token, or else an address."""

    calls: int | None = Field(
        None, ge=1, le=1_000_000, description="requests of one caller in any `per_s` and process, 429 beyond"
    )
    per_s: MaxWait | None = Field(None, description="the period of `calls`")
    max_concurrent: int | None = Field(
        None, ge=1, le=1_000_000, description="requests of one caller in progress at once, 429 beyond"
    )
    priority: Literal["interactive", "batch"] = Field(
        "interactive", description="the class of reads: `batch` waits for the upstream behind `interactive`"
    )
    allow_priority_header: bool = Field(
        False,
        description="whether callers may raise it by `X-Request-Priority: interactive`; to `batch` any may lower it",
    )


class AdminSection(Section):
    """The operators' port."""

    listen: HostPort = Field("127.0.0.1:9090", description="the address of the admin port, HOST:PORT")
    token: FieldSecret | None = Field(
        None, min_length=8, description="bearer token for all but the health checks; required to listen beyond loopback"
    )
    token_file: FilePath | None = Field(None, description="a file that holds `token`")


class LogSection(Section):
    """What goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    access: bool = Field(
        False, description="one line for each request: route, status, cache status, seconds, request id"
    )


class Settings(Section):
    """All settings, validated."""

    server: ServerSection = Field(default_factory=ServerSection)
    upstream: UpstreamSection
    identity: IdentitySection = Field(default_factory=IdentitySection)
    cache: CacheSection = Field(default_factory=CacheSection)
    store: StoreSection = Field(default_factory=StoreSection)
    budget: BudgetSection = Field(default_factory=BudgetSection)
    clients: ClientsSection = Field(default_factory=ClientsSection)
    admin: AdminSection = Field(default_factory=AdminSection)
    log: LogSection = Field(default_factory=LogSection)


# In a URL: `redis://user:PASSWORD@host`, or what redis-py reads from the query, `?ssl_password=PASSWORD`. What is no
# URL for the odd characters in its password is shown too, to say so: rather too much of it is hidden than too little.
_URL_PASSWORD: Final = re.compile(r"(?:(://[^/:@?#]*:).*(?=@)|([?&]\w*password=)[^&#]*)", re.IGNORECASE)


def mask_passwords(text: str) -> str:
    """Return *text* without the password that a URL in it may hold."""
    return _URL_PASSWORD.sub(lambda found: f"{found[1] or found[2]}***", text)


def render_toml(value: object) -> str:
    """Return the setting's *value* as it is written in a TOML file."""
    match value:
        case None | SecretStr():
            return '""' if value is None else '"***"'
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value).removesuffix(".0")
        case tuple():
            return f"[{', '.join(map(render_toml, value))}]"
        case Section() | dict():
            named = dict(value).items()
            members = [f"{render_toml(name)} = {render_toml(each)}" for name, each in named if each is not None]
            return f"{{{', '.join(members)}}}"
        case _:
            return '"' + mask_passwords(str(value)).replace("\\", "\\\\").replace('"', '\\"') + '"'
