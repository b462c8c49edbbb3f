"""Settings from file, environment and flags, and `ims-proxy check`, which names all that is wrong with them."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import cli
from proxy.config.loading import ConfigurationError, load, sections
from proxy.config.model import Section, mask_passwords

URL = "http://up.example"


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of whoever runs the tests be a setting."""
    for name in list(os.environ):
        if name.startswith("IMS_PROXY_"):
            monkeypatch.delenv(name)


def check(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(
        cli, ["check", *words], env={f"IMS_PROXY_{name}": each for name, each in environment.items()}
    )


def problems(*words: str, **environment: str) -> list[str]:
    """Return the lines on standard error of a check that fails, and nothing else does."""
    result = check(*words, **environment)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert all(line.startswith("ims-proxy: ") for line in lines)
    assert "Traceback" not in result.stderr
    return [line.removeprefix("ims-proxy: ") for line in lines]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ims-proxy.toml"


def test_an_upstream_is_enough() -> None:
    """With `--upstream` alone the defaults are shown: loopback, process memory, token identity."""
    result = check("--upstream", URL)
    assert result.exit_code == 0
    shown = tomllib.loads(result.stdout)
    assert shown["server"]["listen"] == "127.0.0.1:8080"
    assert shown["store"]["url"] == "memory://"
    assert shown["identity"]["mode"] == "token"
    assert shown["upstream"]["url"] == URL


def test_flags_override_the_environment_which_overrides_the_file(file: Path) -> None:
    """Each value says where it came from."""
    file.write_text(
        '[upstream]\nurl = "http://file.example"\n[cache]\nttl_s = 1\ntransient_ttl_s = 1\n[server]\ndrain_s = 1\n'
    )
    result = check(
        *("--config", str(file), "--upstream", "http://flag.example"),
        UPSTREAM__URL="http://environment.example",
        CACHE__TTL_S="2",
    )
    assert result.exit_code == 0, result.stderr
    assert 'url = "http://flag.example"  # flag --upstream' in result.stdout
    assert "ttl_s = 2  # environment IMS_PROXY_CACHE__TTL_S" in result.stdout
    assert f"drain_s = 1  # {file}" in result.stdout
    assert "negative_ttl_s = 5  # default" in result.stdout


def test_what_is_shown_can_be_used_again(file: Path) -> None:
    """The effective settings are a file with the same meaning, precise to the last digit."""
    file.write_text(
        f'[upstream]\nurl = "{URL}"\n[server]\nlinks = "absolute"\ntrusted_proxies = ["10.0.0.0/8"]\n'
        "[cache]\nttl_s = 1234567.25\nreadahead = false\n"
        '[[cache.rules]]\npath = "/v2/images"\nquery = "visibility=public"\nttl_s = 600\n'
    )
    first = check("--config", str(file))
    assert first.exit_code == 0, first.stderr
    settings = load(file, {}, {}).settings
    again = file.with_suffix(".again")
    again.write_text(first.stdout)
    assert load(again, {}, {}).settings == settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cache]\nttl = 5", "cache.ttl: no such setting, did you mean cache.ttl_s?"),
        ("[cahce]\nttl_s = 5", "cahce.ttl_s: no such setting, did you mean cache.ttl_s?"),
        ('[server]\nlisten_address = "x:1"', "server.listen_address: no such setting, did you mean server.listen?"),
        ("ttl_s = 5", "ttl_s: no such setting"),
        ("[zzz]\nqqq = 5", "zzz.qqq: no such setting"),
    ],
)
def test_an_unknown_name_in_the_file_suggests_the_right_one(file: Path, text: str, expected: str) -> None:
    """Setting, suggestion and file stand in one line."""
    file.write_text(text)
    (found,) = problems("--upstream", URL, "--config", str(file))
    assert found.startswith(expected)
    assert found.endswith(f"({file})")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("CACHE__TTL", "IMS_PROXY_CACHE__TTL_S"),
        ("CACHE_TTL_S", "IMS_PROXY_CACHE__TTL_S"),
        ("STORE__URI", "IMS_PROXY_STORE__URL"),
        ("SERVER__LISTN", "IMS_PROXY_SERVER__LISTEN"),
    ],
)
def test_an_unknown_variable_suggests_the_right_one(name: str, suggestion: str) -> None:
    """Names are spelt as the environment spells them."""
    (found,) = problems("--upstream", URL, **{name: "1"})
    assert found == f"IMS_PROXY_{name}: no such setting, did you mean {suggestion}? (environment)"


def test_every_problem_is_named_at_once(file: Path) -> None:
    """Unknown names, bad values of every source, what lacks, and what contradicts itself."""
    file.write_text('[server]\nlisten = "nowhere"\nlinks = "absolute"\n[cache]\nttl = 1\n')
    found = problems(
        *("--config", str(file), "--admin", "0.0.0.0:9090", "--store", "mysql://x"),
        CACHE__TRANSIENT_TTL_S="soon",
        CACHE__READAHEAD="maybe",
    )
    named = [line.partition(": ")[0] for line in found]
    assert sorted(named) == [
        "admin.listen",
        "cache.readahead",
        "cache.transient_ttl_s",
        "cache.ttl",
        "server.links",
        "server.listen",
        "store.url",
        "upstream.url",
    ]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("CACHE__TTL_S", "soon", "'soon'"),
        ("CACHE__TTL_S", "-1", "'-1'"),
        ("CACHE__TTL_S", "inf", "'inf'"),
        ("CACHE__TTL_S", "nan", "'nan'"),
        ("STORE__TIMEOUT_MS", "0", "'0'"),
        ("UPSTREAM__MAX_CONNECTIONS", "0", "'0'"),
        ("UPSTREAM__MAX_PAGE", "1.5", "'1.5'"),
        ("SERVER__LISTEN", "8080", "'8080'"),
        ("SERVER__LISTEN", "127.0.0.1:99999", "'127.0.0.1:99999'"),
        ("SERVER__LINKS", "both", "'both'"),
        ("SERVER__TRUSTED_PROXIES", "10.0.0.0/99", "'10.0.0.0/99'"),
        ("SERVER__PUBLIC_URL", "ftp://x", "'ftp://x'"),
        ("SERVER__PUBLIC_URL", 'http://x/"<', "'http://x/\"<'"),
        ("SERVER__LISTEN", "a b:80", "'a b:80'"),
        ("SERVER__LISTEN", "::1:80", "'::1:80'"),
        ("SERVER__LISTEN", "*:80", "'*:80'"),
        ("SERVER__TLS_CERT", "", "''"),
        ("IDENTITY__ACCESS_KEY", "AK, Signature=x", "'AK, Signature=x'"),
        ("CACHE__RULES", "[{", "'[{'"),
        ("STORE__URL", "redis://h/0?nonsense=1", "'redis://h/0?nonsense=1'"),
        ("STORE__PREFIX", "a{b}", "'a{b}'"),
        ("IDENTITY__MODE", "nobody", "'nobody'"),
        ("LOG__LEVEL", "loud", "'loud'"),
    ],
)
def test_a_bad_value_is_shown_with_what_is_allowed_and_its_source(name: str, value: str, shown: str) -> None:
    """Setting, value, what is allowed, where it came from."""
    (found,) = problems("--upstream", URL, **{name: value})
    setting = name.lower().replace("__", ".")
    assert found.startswith(f"{setting}: {shown}, allowed is ")
    assert found.endswith(f"(environment IMS_PROXY_{name})")


def test_a_bad_rule_is_told_with_the_names_it_may_have(file: Path) -> None:
    """A table in a list is held against its own names."""
    file.write_text("[[cache.rules]]\ntll_s = 5\n")
    (found,) = problems("--upstream", URL, "--config", str(file))
    assert found.startswith("cache.rules: ")
    assert "ttl_s" in found
    assert "not tll_s" in found


@pytest.mark.parametrize(
    "url",
    [
        "",
        "up.example",
        "ftp://up.example",
        "http://",
        "http://up.example/path",
        "http://u:p@up.example",
        "http://x:99999",
        "http://x:0",
        "http://x:",
        "http://x,y",
        "http://x y",
        " http://x",
        "http://x\ny",
        "http://x\\y",
        'http://x"',
        "http://x?",
        "http://x#",
        "http://@x",
        "http://[::1",
        "http://\u00fc.example",
        "localhost:9292",
    ],
)
def test_an_upstream_is_one_origin(url: str) -> None:
    """Anything but scheme, host and port is refused."""
    (found,) = problems("--upstream", url)
    assert found.startswith("upstream.url: ")
    assert found.endswith("(flag --upstream)")


def test_without_an_upstream_every_way_to_name_it_is_told() -> None:
    """What lacks says where it could have come from."""
    (found,) = problems()
    assert found.startswith("upstream.url: required and not given")
    assert "--upstream" in found
    assert "IMS_PROXY_UPSTREAM__URL" in found


def test_secrets_are_masked_and_read_from_files(tmp_path: Path) -> None:
    """Neither the effective settings nor errors show one, wherever it stood."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2-hunter2-hunter2\n")
    result = check(
        *("--upstream", URL, "--store", "redis://user:hunter2@redis.example:6379/0"),
        IDENTITY__SECRET_FILE=str(secret),
        ADMIN__TOKEN="hunter2-hunter2",
    )
    assert result.exit_code == 0, result.stderr
    assert "hunter2" not in result.output
    assert f'secret = "***"  # file {secret}' in result.stdout
    assert 'url = "redis://user:***@redis.example:6379/0"' in result.stdout
    assert load(
        None, {"IMS_PROXY_IDENTITY__SECRET_FILE": str(secret)}, {("upstream", "url"): URL}
    ).settings.identity.secret
    for line in problems("--store", "mysql://user:hunter2@x", ADMIN__TOKEN="hunter2", IDENTITY__SECRET="hunter2"):
        assert "hunter2" not in line


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@h:6379/0",
        "rediss://h:6379/0?ssl_password=hunter2&ssl_ca_certs=ca.pem",
        "redis+sentinel://u:p@h:1/s?sentinel_password=hunter2",
        "redis://h/0?db=1&PASSWORD=hunter2",
        "redis://user:odd@and/hunter2?#hunter2@h:6379/0",
    ],
)
def test_no_password_of_a_url_is_shown(url: str) -> None:
    """Whichever it is, and though it makes the URL none."""
    assert "hunter2" not in mask_passwords(f"store.url = {url}")
    assert mask_passwords("redis://h:6379/0?db=1") == "redis://h:6379/0?db=1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"IDENTITY__SECRET_FILE": "missing-file"}, "identity.secret_file: missing-file: No such file"),
        (
            {"IDENTITY__SECRET_FILE": "missing-file", "IDENTITY__SECRET": "s" * 16},
            "identity.secret_file: given beside identity.secret, only one may be",
        ),
        ({"IDENTITY__SECRET": "short"}, "identity.secret: ***, allowed is at least 16 characters"),
    ],
)
def test_a_secret_that_can_t_be_used_is_an_error(given: dict[str, str], expected: str) -> None:
    """A file that is missing, one beside the secret itself, and one that is too short."""
    assert any(line.startswith(expected) for line in problems("--upstream", URL, **given))


@pytest.mark.parametrize("url", ["http://keystone:5000/v3", "https://iam.example.com/identity/v3/"])
def test_iam_is_named_without_its_version(url: str) -> None:
    """The `/v3` that `OS_AUTH_URL` ends with would be asked for twice, and IAM would know no token there."""
    first, *_ = problems("--upstream", URL, IDENTITY__MODE="project", IDENTITY__IAM_URL=url)
    assert first.startswith(f"identity.iam_url: '{url}', allowed is what stands before /v3, which the proxy adds")


def test_a_file_that_can_t_be_read_is_an_error(tmp_path: Path, file: Path) -> None:
    """A missing file and one that is no TOML end in one line each."""
    (found,) = problems("--upstream", URL, "--config", str(tmp_path / "missing.toml"))
    assert "No such file" in found
    file.write_text("[server\nlisten=")
    (found,) = problems("--upstream", URL, "--config", str(file))
    assert found.startswith(f"{file}: no TOML")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"\xff", "FILE: no text in UTF-8", id="not UTF-8"),
        pytest.param(b"x = " + b"[" * 5000, "FILE: no TOML that can be read, nested too deep", id="a bomb"),
        pytest.param(b"x = " + b"9" * 5000, "FILE: no TOML that can be read, a number in it is too long", id="huge"),
        pytest.param(b"server = 3", "server: a table is allowed, [server]", id="a value for a section"),
        pytest.param(b"[[server]]\nx = 1", "server: a table is allowed, [server]", id="a list for a section"),
        pytest.param(b"[cache]\nrules = [[1]]", "cache.rules: [[1]], allowed is a table", id="a list for a table"),
        pytest.param(b"[cache]\nttl_s = true", "cache.ttl_s: True, allowed is a number", id="true for seconds"),
        pytest.param(b"[budget]\ncalls = true", "budget.calls: True, allowed is a number", id="true for a count"),
        pytest.param(
            b"[identity]\nsecret_file = 3", "identity.secret_file: 3, allowed is the name of a file", id="no name"
        ),
        pytest.param(
            b'[identity]\nsecret_file = "\\u0000"',
            "identity.secret_file: '\\x00', allowed is the name of a file",
            id="NUL for a secret",
        ),
        pytest.param(
            b'[upstream]\nca_file = "a\\u0000"', "upstream.ca_file: 'a\\x00', allowed is the name of a file", id="NUL"
        ),
        pytest.param(
            b'[identity]\nsecret_file = "/dev/zero"',
            "identity.secret_file: /dev/zero: longer than 1048576 bytes",
            id="without an end",
        ),
        pytest.param(
            b'[store]\nurl = "rediss://h?ssl_ca_certs=/nowhere"',
            "store.url: ssl_ca_certs /nowhere: No such file or directory",
            id="no authority for Redis",
        ),
        pytest.param(
            b'[store]\nurl = "rediss://h?ssl_ca_certs=%00"',
            "store.url: ssl_ca_certs \ufffd: no name of a file",
            id="NUL for Redis",
        ),
        pytest.param(
            b'["\\u001b[31m"]\n"a\\nb" = 1', "\ufffd[31m.a\ufffdb: no such setting", id="orders to a terminal"
        ),
    ],
)
def test_whatever_is_in_a_file_is_told_in_one_line(file: Path, text: bytes, expected: str) -> None:
    """Neither what it holds nor what it names ends in a traceback."""
    file.write_bytes(text)
    (found,) = problems("--upstream", URL, "--config", str(file))
    assert found.startswith(expected.replace("FILE", str(file)))


def test_a_byte_order_mark_is_no_part_of_a_file(file: Path, tmp_path: Path) -> None:
    """Settings and secrets are what an editor shows, whatever it puts before them."""
    secret = tmp_path / "secret"
    secret.write_text("\ufeffhunter2-hunter2-hunter2\n", encoding="utf-8")
    file.write_text(f'\ufeff[identity]\nsecret_file = "{secret}"\n', encoding="utf-8")
    kept = load(file, {}, {("upstream", "url"): URL}).settings.identity.secret
    assert kept
    assert kept.get_secret_value() == "hunter2-hunter2-hunter2"


def test_nothing_is_said_to_lack_that_a_file_may_hold_which_can_t_be_read(file: Path) -> None:
    """That it can't be read is all that is told of it."""
    (found,) = problems("--config", str(file.with_name("nowhere.toml")))
    assert "No such file" in found
    file.write_text("[server]\n")
    (found,) = problems("--config", str(file))
    assert found.startswith("upstream.url: required and not given")


@pytest.mark.parametrize("value", ["h\u00fcnter2-hunter2-hunter2", "hunter2-hunter2\nhunter2"])
@pytest.mark.parametrize("name", ["ADMIN__TOKEN", "IDENTITY__SECURITY_TOKEN"])
def test_what_goes_into_a_field_has_to_fit(name: str, value: str) -> None:
    """A secret that nobody could send is refused, and not shown for it."""
    (found,) = problems("--upstream", URL, **{name: value})
    setting = name.lower().replace("__", ".")
    assert found.startswith(f"{setting}: ***, allowed is one line of visible ASCII characters")


def test_no_secret_is_shown_for_being_wrong(file: Path) -> None:
    """Whatever kind of setting holds it."""
    given = [f'[{name}]\n{key} = ["hunter2"]' for name, model in sections().items() for key in secrets_of(model)]
    assert len(given) >= 7
    for text in given:
        file.write_text(text)
        assert all("hunter2" not in line for line in problems("--upstream", URL, "--config", str(file)))


def secrets_of(model: type[Section]) -> list[str]:
    return [name for name in model.model_fields if f"{name}_file" in model.model_fields and name != "access_key"]


def test_the_error_holds_every_problem() -> None:
    """For callers in Python the problems are data."""
    with pytest.raises(ConfigurationError) as failed:
        load(None, {"IMS_PROXY_CACHE__TTL_S": "x", "IMS_PROXY_NONSENSE": "1", "OTHER": "1"}, {})
    assert {problem.setting for problem in failed.value.problems} == {
        "cache.ttl_s",
        "IMS_PROXY_NONSENSE",
        "upstream.url",
    }


@pytest.mark.parametrize("command", ["serve", "check"])
def test_every_command_ends_with_2_on_wrong_usage(command: str) -> None:
    """An unknown option is wrong usage, and so is a configuration that can't be used."""
    assert CliRunner().invoke(cli, [command, "--nonsense"]).exit_code == 2
    result = CliRunner().invoke(cli, [command, "--upstream", "nonsense"])
    assert result.exit_code == 2
    assert result.stderr.startswith("ims-proxy: upstream.url: 'nonsense'")
