"""`ims-proxy replay` from a shell."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.commands import command

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
LINE = '10.0.0.1 - {who} [24/Nov/2026:08:52:{second:02} +0000] "{request} HTTP/1.1" {status} 9000 "-" "-"'


def line(second: int, target: str, *, who: str = "ci", method: str = "GET", status: int = 200) -> str:
    """Return a line of the combined format."""
    return LINE.format(who=who, second=second, request=f"{method} {target}", status=status)


LOG = "\n".join(
    [
        *(line(second, "/v2/images?limit=10&sort_dir=desc") for second in range(8)),
        *(line(second, "/v2/images?limit=5", who="cd") for second in range(4)),
        line(9, "/v2/images/abc/file"),
        line(9, "/v2/images", method="POST", status=201),
        line(10, "/v2/images?limit=10"),
        "",
        "garbage",
        '{"half": ',
    ]
)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a child find this very package wherever it is started."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


async def replayed(*words: str, at: Path) -> dict[str, Any]:
    """Return what the command tells as JSON."""
    async with command("replay", "--json", *words, at=at) as started:
        assert await started.ended() == 0, started.errors
        assert not started.errors
        told: dict[str, Any] = orjson.loads(bytes(started.output))
        return told


async def test_a_log_is_replayed_and_no_line_is_lost(tmp_path: Path) -> None:
    """Every line is a list, something else, blank or malformed; a write makes the next list a call."""
    (tmp_path / "access.log").write_text(LOG)
    told = await replayed("access.log", at=tmp_path)
    assert told["lines"] == {"total": 18, "lists": 13, "others": 2, "blank": 1, "malformed": 2}
    assert [each["line"] for each in told["malformed"]] == [17, 18]
    assert told["callers"] == 2
    assert told["total"] == {"listing": "all", "requests": 15, "hits": 10, "calls": 5, "saved": 10}
    assert told["busiest_minute"] == {"without": 15, "with": 5}


async def test_gzip_and_several_files_and_standard_input_are_read_alike(tmp_path: Path) -> None:
    """What a log is kept in changes nothing."""
    (tmp_path / "access.log").write_text(LOG)
    whole = await replayed("access.log", at=tmp_path)
    half = LOG.index("\n", len(LOG) // 2) + 1
    (tmp_path / "access.log.1.gz").write_bytes(gzip.compress(LOG[:half].encode()))
    (tmp_path / "rest.log").write_text(LOG[half:])
    assert await replayed("access.log.1.gz", "rest.log", at=tmp_path) == whole
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "replay", "--json", "-"),
        cwd=tmp_path,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await child.communicate(gzip.compress(LOG.encode()))
    assert orjson.loads(output) == whole


async def test_the_settings_and_flags_change_what_is_predicted(tmp_path: Path) -> None:
    """Without a lifetime everything is a call; in mode gateway callers share; callers may be told apart otherwise."""
    (tmp_path / "access.log").write_text(LOG)
    assert (await replayed("--ttl", "0", "access.log", at=tmp_path))["total"]["saved"] <= 0
    assert (await replayed("--caller", "address", "access.log", at=tmp_path))["callers"] == 1
    shared = {"IDENTITY__MODE": "gateway", "IDENTITY__ACCESS_KEY": "ak", "IDENTITY__SECRET_KEY": "s3cr3t"}
    async with command("replay", "--json", "access.log", at=tmp_path, **shared) as started:
        assert await started.ended() == 0, started.errors
        assert orjson.loads(bytes(started.output))["total"]["calls"] == 4


@pytest.mark.parametrize("field", ["tenant", "user"])
async def test_a_field_that_no_line_has_tells_no_callers_apart(tmp_path: Path, field: str) -> None:
    """A misspelt field is named; were all lines one caller's, far more would be saved than ever will be."""
    (tmp_path / "access.log").write_text(line(1, "/v2/images", who="-"))
    async with command("replay", "--caller", field, "access.log", at=tmp_path) as started:
        assert await started.ended() == 2
        assert f"--caller: no line says '{field}'" in started.errors.decode()
        assert not started.output


async def test_the_table_is_read_by_people(tmp_path: Path) -> None:
    """The listings in canonical spelling, routes that are no lists, sums, and what was malformed."""
    (tmp_path / "access.log").write_text(LOG)
    async with command("replay", "access.log", at=tmp_path) as started:
        assert await started.ended() == 0, started.errors
        text = started.output.decode()
    assert "18 lines: 13 lists, 2 other requests, 1 blank, 2 malformed" in text
    assert "line 17: neither the combined format nor JSON" in text
    assert [row.split() for row in text.splitlines() if row.startswith(("/v2/images ", "all "))] == [
        ["/v2/images", "13", "10", "3", "10"],
        ["all", "15", "10", "5", "10"],
    ]
    assert "10 of 15 calls saved, 66.7 %" in text


@pytest.mark.parametrize("content", ["", "\n\n", "garbage\n"])
async def test_a_log_without_requests_says_so(tmp_path: Path, content: str) -> None:
    """Nothing is divided by nothing."""
    (tmp_path / "access.log").write_text(content)
    async with command("replay", "access.log", at=tmp_path) as started:
        assert await started.ended() == 0, started.errors
        assert b"0 lists" in started.output
    assert (await replayed("access.log", at=tmp_path))["from"] is None


async def test_what_can_t_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    """A file that is not there, a directory, and a gzip that was cut off: which it is, why, and how far it was."""
    (tmp_path / "cut.gz").write_bytes(gzip.compress(LOG.encode() * 50)[:-40])
    for name, said in (("nowhere", "No such file"), (".", "directory"), ("cut.gz", "middle of its gzip, after line")):
        async with command("replay", name, at=tmp_path) as started:
            assert await started.ended() == 1
            (told,) = started.errors.decode().splitlines()
            assert told.startswith(f"ims-proxy: {name}: ")
            assert said in told


async def test_a_line_that_never_ends_is_one_malformed_line(tmp_path: Path) -> None:
    """It is bounded in memory, and what follows it is read."""
    with (tmp_path / "access.log").open("w") as log:
        for _ in range(40):
            log.write("x" * 100_000)
        log.write("\n" + line(1, "/v2/images") + "\n")
    told = await replayed("access.log", at=tmp_path)
    assert told["lines"] == {"total": 2, "lists": 1, "others": 0, "blank": 0, "malformed": 1}


async def test_ctrl_c_and_a_reader_that_goes_away_end_it_without_a_traceback(tmp_path: Path) -> None:
    """130 for the one, and no complaint for the other."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with command("replay", "fifo", at=tmp_path) as started:
        writer = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)  # opens once the command reads
        try:
            assert await started.ended(by=signal.SIGINT) == 130
        finally:
            os.close(writer)
        assert not started.errors.strip()
    (tmp_path / "access.log").write_text("\n".join(line(1, f"/v2/images?name={number}") for number in range(3000)))
    shell = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m proxy replay --top 3000 access.log | head -1", cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await shell.communicate()
    assert output.startswith(b"3,000 lines")
    assert b"Traceback" not in errors
