"""Files that change while the proxy runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.watched import LOOK_S, Watched


def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    """A new value counts from the next look on, and one that can't be used leaves the one before."""
    now = 0.0
    file = tmp_path / "number"
    file.write_text("1")
    watched = Watched(file, int, clock=lambda: now)
    file.write_text("22")
    assert watched() == 1
    now += LOOK_S
    assert watched() == 22
    file.write_text("no number")
    now += LOOK_S
    assert watched() == 22
    file.unlink()
    now += LOOK_S
    assert watched() == 22


def test_a_link_that_is_swapped_is_noticed(tmp_path: Path) -> None:
    """Kubernetes updates a mount by swapping a link; size and time may well be the same."""
    now = 0.0
    for name in "ab":
        (tmp_path / name).write_text(name)
    link = tmp_path / "secret"
    link.symlink_to("a")
    watched = Watched(link, str, clock=lambda: now)
    link.unlink()
    link.symlink_to("b")
    now += LOOK_S
    assert watched() == "b"


def test_a_file_that_is_not_there_at_first_is_an_error(tmp_path: Path) -> None:
    """A proxy does not start without what it was told to use."""
    with pytest.raises(FileNotFoundError):
        Watched(tmp_path / "none", str)
