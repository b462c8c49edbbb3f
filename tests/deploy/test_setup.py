"""The set-up on a fresh machine, as far as any can try it: what is looked for, and what is said to be missing."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROVISION = ROOT / "tests" / "provision"

OLD = "case $1 in -c) echo 3.9.2 ;; *) exit 1 ;; esac"
WHOLE = 'echo "python3.12-venv whole /usr/bin/python3.12"'
PARTIAL = 'echo "python3.12-venv partial /usr/bin/python3.12"'
FOREIGN = 'echo "- partial /opt/python/bin/python3.12"'
NOT_ROOT = "echo 1000"

Provision = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def provision(tmp_path: Path) -> Provision:
    """Return what runs `tests/provision` where the only programs are bash and the given ones, with their scripts."""
    (tmp_path / "bash").symlink_to(shutil.which("bash") or "/bin/bash")

    def run(word: str, **programs: str) -> subprocess.CompletedProcess[str]:
        for name, script in programs.items():
            program = tmp_path / name.replace("python3_", "python3.").replace("_", "-")
            program.write_text(f"#!{tmp_path}/bash\n{script}\n")
            program.chmod(0o755)
        return subprocess.run(
            [str(PROVISION), word],
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_whole_python_is_taken(provision: Provision) -> None:
    """`python3` is taken where it will do, and nothing is said about it."""
    done = provision("python", python3=WHOLE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "/usr/bin/python3.12\n", "")


def test_a_newer_python_is_found_beside_an_old_one(provision: Provision) -> None:
    """Where `python3` is too old, one by its version is taken."""
    done = provision("python", python3=OLD, python3_12=WHOLE)
    assert (done.returncode, done.stdout) == (0, "/usr/bin/python3.12\n")


def test_a_whole_python_goes_before_an_installation(provision: Provision) -> None:
    """Nothing is installed for one interpreter while another needs nothing."""
    done = provision("python", python3=PARTIAL, python3_12=WHOLE)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("programs", "line"),
    [
        pytest.param({}, r"Python 3\.11 or newer \(python3 is not there\)", id="no python"),
        pytest.param({"python3": OLD}, r"Python 3\.11 or newer \(python3 is 3\.9\.2\)", id="too old"),
        pytest.param({"python3": FOREIGN}, r"the modules venv and ensurepip of python3, .+", id="built without"),
        pytest.param({"python3": PARTIAL}, r"python3\.12-venv, .+; bring it with .+", id="no apt-get"),
        pytest.param(
            {"python3": PARTIAL, "apt_get": "exit 99", "id": NOT_ROOT},
            r"python3\.12-venv, .+; run: sudo apt-get update && sudo apt-get install python3\.12-venv",
            id="not root",
        ),
        pytest.param(
            {"python3": PARTIAL, "apt_get": "exit 99", "id": NOT_ROOT, "sudo": "exit 1"},
            r"python3\.12-venv, .+; run: sudo apt-get update && sudo apt-get install python3\.12-venv",
            id="sudo wants a password",
        ),
    ],
)
def test_what_python_lacks_is_said_in_one_line(provision: Provision, programs: dict[str, str], line: str) -> None:
    """Nothing is installed that may not be; the line names what is missing and, where it is known, the command."""
    done = provision("python", **programs)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"missing: {line}\n", done.stderr)


def test_the_package_is_installed_through_sudo(provision: Provision, tmp_path: Path) -> None:
    """With sudo that asks nothing, apt-get brings the package, and the Python that it completes is taken."""
    installed = f'echo "$*" >>{tmp_path}/apt.log; : >{tmp_path}/installed'
    python = f"if [ -e {tmp_path}/installed ]; then {WHOLE}; else {PARTIAL}; fi"
    sudo = 'while [ "$1" != -- ]; do shift; done; shift; "$@"'
    env = 'while [[ $1 == *=* ]]; do shift; done; "$@"'
    true = "exit 0"
    done = provision("python", python3=python, apt_get=installed, id=NOT_ROOT, sudo=sudo, env=env, true=true)
    assert (done.returncode, done.stdout) == (0, "/usr/bin/python3.12\n")
    assert done.stderr == "installing python3.12-venv\n"
    assert (tmp_path / "apt.log").read_text().rstrip().endswith("install --no-install-recommends python3.12-venv")


@pytest.mark.parametrize("server", ["redis_server", "valkey_server"])
def test_a_redis_that_is_there_is_left_alone(provision: Provision, server: str) -> None:
    """Redis or Valkey will do, and nothing is said about it."""
    done = provision("redis", **{server: "exit 0"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_redis_is_named_with_its_package(provision: Provision) -> None:
    """Where it may not be installed, the line says by which command it is."""
    done = provision("redis", apt_get="exit 99", id=NOT_ROOT)
    assert done.returncode == 1
    assert re.fullmatch(
        r"missing: redis-server, .+; run: sudo apt-get update && sudo apt-get install redis-server\n", done.stderr
    )


@pytest.mark.parametrize("browser", ["chromium", "chromium_browser", "google_chrome"])
def test_a_browser_that_is_there_is_left_alone(provision: Provision, browser: str) -> None:
    """Whichever it is, and nothing is said about it."""
    done = provision("browser", **{browser: "exit 0"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_browser_is_named_with_its_package(provision: Provision) -> None:
    """Where it may not be installed, the line says by which command it is."""
    done = provision("browser", apt_get="exit 99", id=NOT_ROOT)
    assert done.returncode == 1
    assert re.fullmatch(
        r"missing: chromium, .+; run: sudo apt-get update && sudo apt-get install chromium\n", done.stderr
    )


def test_another_word_is_wrong_usage(provision: Provision) -> None:
    """A word that it doesn't know ends with 2 and the usage."""
    done = provision("kubectl")
    assert done.returncode == 2
    assert re.fullmatch(r"usage: tests/provision python\|redis\S*\n", done.stderr)


def test_make_alone_lists_every_target() -> None:
    """`make` prints each target that is meant for people, with what it does."""
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make (\w+) +\S", said, re.MULTILINE)) == set(phony[1].split()) - {"gone"}


@pytest.mark.parametrize("program", [".ci/run", "tests/provision", "deploy/probe.py"])
def test_programs_may_be_run(program: str) -> None:
    """What is called by its path has the bit that allows it."""
    assert os.access(ROOT / program, os.X_OK)
