"""Files that change while the proxy runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.reload import CHECK_INTERVAL_S, ReloadedFile, ReloadedValue, single_line


def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    """A new value counts from the next look on, and one that can't be used leaves the one before."""
    now = 0.0
    file = tmp_path / "number"
    file.write_text("1")
    watched = ReloadedFile(file, int, clock=lambda: now)
    file.write_text("22")
    assert watched() == 1
    now += CHECK_INTERVAL_S
    assert watched() == 22
    file.write_text("no number")
    now += CHECK_INTERVAL_S
    assert watched() == 22
    file.unlink()
    now += CHECK_INTERVAL_S
    assert watched() == 22


def test_a_link_that_is_swapped_is_noticed(tmp_path: Path) -> None:
    """Kubernetes updates a mount by swapping a link; size and time may well be the same."""
    now = 0.0
    for name in "ab":
        (tmp_path / name).write_text(name)
    link = tmp_path / "secret"
    link.symlink_to("a")
    watched = ReloadedFile(link, str, clock=lambda: now)
    link.unlink()
    link.symlink_to("b")
    now += CHECK_INTERVAL_S
    assert watched() == "b"


def test_a_file_that_is_not_there_at_first_is_an_error(tmp_path: Path) -> None:
    """A proxy does not start without what it was told to use."""
    with pytest.raises(FileNotFoundError):
        ReloadedFile(tmp_path / "none", str)


def test_what_is_only_of_use_together_is_read_together(tmp_path: Path) -> None:
    """A key and its secret that are written one after the other never count mixed."""
    now = 0.0
    files = [tmp_path / "key", tmp_path / "secret"]
    for file in files:
        file.write_text("old")
    pair = ReloadedValue(files, lambda: [file.read_text() for file in files], wait_until_stable=True, clock=lambda: now)
    seen = []
    for written in ([files[0]], [files[1]], [], []):
        for file in written:
            file.write_text("newer")
        now += CHECK_INTERVAL_S
        seen.append(pair())
    assert seen == [["old", "old"], ["old", "old"], ["newer", "newer"], ["newer", "newer"]]


@pytest.mark.parametrize("text", ["", "\n", "one\ntwo", "a\0b"])
def test_a_secret_is_one_line(tmp_path: Path, text: str) -> None:
    """A file that was emptied to be written anew leaves the secret that it held."""
    now = 0.0
    file = tmp_path / "secret"
    file.write_text("a secret\n")
    watched = ReloadedFile(file, single_line, clock=lambda: now)
    file.write_text(text)
    now += CHECK_INTERVAL_S
    assert watched() == "a secret"
