"""The set-up on a fresh machine, as far as any can try it: what is looked for, and what is said to be missing."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PROVISION = ROOT / "tests" / "provision"

OLD = "case $1 in -c) echo 3.9.2 ;; *) exit 1 ;; esac"
WHOLE = 'echo "python3.12-venv whole /usr/bin/python3.12"'
PARTIAL = 'echo "python3.12-venv partial /usr/bin/python3.12"'
FOREIGN = 'echo "- partial /opt/python/bin/python3.12"'
NOT_ROOT = "echo 1000"
NOT_CHOSEN = "echo 'pyenv: python3.13: command not found' >&2; exit 127"  # of a version that is there

Provision = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def provision(tmp_path: Path) -> Provision:
    """Return what runs `tests/provision` where the only programs are bash and the given ones, with their scripts."""
    (tmp_path / "bash").symlink_to(shutil.which("bash") or "/bin/bash")

    def run(*words: str, chosen: str = "", **programs: str) -> subprocess.CompletedProcess[str]:
        for name, script in programs.items():
            program = tmp_path / name.replace("python3_", "python3.").replace("_", "-")
            program.write_text(f"#!{tmp_path}/bash\n{script}\n")
            program.chmod(0o755)
        return subprocess.run(
            [str(PROVISION), *words],
            env={"PATH": str(tmp_path), "PYTHON": chosen},
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


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[str, str], dict[str, str]]:
    """Return what makes an interpreter that pyenv keeps, and returns pyenv's own program for the test."""

    def keep(version: str, script: str) -> dict[str, str]:
        program = tmp_path / "pyenv-root" / "versions" / version / "bin" / f"python{version.rpartition('.')[0]}"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!{tmp_path}/bash\n{script}\n")
        program.chmod(0o755)
        return {"pyenv": f"echo {tmp_path}/pyenv-root"}

    return keep


def test_a_python_that_pyenv_keeps_is_found(provision: Provision, kept: Callable[[str, str], dict[str, str]]) -> None:
    """By its name, although what pyenv has put on PATH under that name works for chosen versions only."""
    pyenv = kept("3.13.5", 'echo "- whole /opt/python3.13"')
    programs = {"python3": WHOLE, "python3_13": NOT_CHOSEN} | pyenv
    done = provision("python", chosen="python3.13", **programs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "/opt/python3.13\n", "")
    assert provision("python", **programs).stdout == "/usr/bin/python3.12\n"


def test_the_python_that_is_named_is_taken_or_none(provision: Provision) -> None:
    """Another one in its place would go unnoticed."""
    done = provision("python", chosen="python3.13", python3=WHOLE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "missing: Python 3.11 or newer (python3.13 is not there)\n"


def whole(version: str) -> str:
    """Return the script of an interpreter that needs nothing, and says its name when asked."""
    return f'case $1 in -c) echo python{version} ;; *) echo "- whole /usr/bin/python{version}" ;; esac'


@pytest.mark.parametrize(
    ("first", "versions", "taken"),
    [
        ("3.11", ["3.11", "3.12", "3.13"], "3.13"),
        ("3.12", ["3.11", "3.12"], "3.11"),
        ("3.13", ["3.11", "3.12", "3.13"], "3.11"),
        ("3.12", ["3.11", "3.12", "3.14"], "3.14"),
    ],
    ids=["newest", "oldest", "oldest of several", "newer before older"],
)
def test_the_second_python_is_the_newest_or_else_the_oldest(
    provision: Provision, first: str, versions: list[str], taken: str
) -> None:
    """So that together the two are as far apart as this machine has them."""
    programs = {f"python{each.replace('.', '_')}": whole(each) for each in versions}
    done = provision("second", f"python{first}", **programs)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"/usr/bin/python{taken}\n", "")


def test_a_second_python_that_makes_no_environments_is_passed_over_aloud(provision: Provision) -> None:
    """One line says what it lacks, and where none is left another says that."""
    partial = 'echo "- partial /opt/python3.13"'
    programs = {"python3_11": whole("3.11"), "python3_13": partial}
    lacks = "missing: the modules venv and ensurepip of python3.13, which was built without them\n"
    done = provision("second", "python3.11", **programs)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{lacks}no second Python is here that could be taken, so python3.11 is the only one\n"
    done = provision("second", "python3.11", **programs, python3_12=whole("3.12"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "/usr/bin/python3.12\n", lacks)


def test_an_environment_belongs_to_one_python(tmp_path: Path) -> None:
    """Another one that PYTHON names makes it anew; the same one, or none named, leaves it."""
    bash = shutil.which("bash")
    for name in ("one", "two"):
        path = tmp_path / name
        path.write_text(
            f"#!{bash}\n"
            f'case $1 in -) echo "- whole {path}" ;; -c) echo {path} ;; '
            f'-m) mkdir -p "$4/bin"; cp {path} "$4/bin/python"; echo x >"$4/pyvenv.cfg" ;; esac\n'
        )
        path.chmod(0o755)

    def make(*words: str) -> str:
        argv = ["make", "--no-print-directory", "--silent", f"VENV={tmp_path}/venv", *words]
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS")}
        done = subprocess.run(
            [*argv, f"{tmp_path}/venv/pyvenv.cfg"], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    for name in ("one", "two"):
        assert make(f"PYTHON={tmp_path}/{name}") == f"making {tmp_path}/venv with {tmp_path}/{name}\n"
        assert make(f"PYTHON={tmp_path}/{name}") == ""
        assert make() == ""


@pytest.mark.parametrize(
    ("words", "environment"),
    [((), ".venv"), (("PYTHON=python3.14",), ".venv-python3.14"), (("PYTHON=/opt/bin/python3",), ".venv-python3")],
    ids=["none named", "a name", "a path"],
)
def test_each_python_has_an_environment_of_its_own(words: tuple[str, ...], environment: str) -> None:
    """So that `make test` with one and then with another install nothing twice."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "VENV", "MAKEFLAGS")}
    done = subprocess.run(
        ["make", "--dry-run", "test", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert f"\n{environment}/bin/python -m pytest " in done.stdout


def test_the_workflow_runs_on_every_supported_python() -> None:
    """Which are those of the classifiers, and one of them is the image's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", each) for each in project["classifiers"]]
    versions = sorted(int(each[1]) for each in found if each)
    image = re.search(r"^FROM python:(3\.\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert project["requires-python"] == f">=3.{versions[0]}"
    assert image is not None
    tested = workflow["jobs"]["check"]["strategy"]["matrix"]["python"]
    assert tested == [f"3.{version}" for version in versions]
    assert image[1] in tested
    assert f'"python3.{versions[-1]} ' in PROVISION.read_text()


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
    assert re.fullmatch(r"usage: tests/provision python\|second\|redis\S*\n", done.stderr)


def test_make_alone_lists_every_target() -> None:
    """`make` prints each target that is meant for people, with what it does."""
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([\w-]+) +\S", said, re.MULTILINE)) == set(phony[1].split()) - {"force"}


@pytest.mark.parametrize("program", [".ci/run", "tests/provision", "deploy/probe.py"])
def test_programs_may_be_run(program: str) -> None:
    """What is called by its path has the bit that allows it."""
    assert os.access(ROOT / program, os.X_OK)
