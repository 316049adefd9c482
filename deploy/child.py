"""The care of children: programs we start, their ports, their signals, their last words.

A child belongs to whoever started it: it has its own session, so that Ctrl-C reaches only us and
we stop it in order, and the kernel ends it when we are killed.
"""

import contextlib
import errno
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".local"
"""Everything a checkout keeps for itself: data, logs, run.json. Ignored by git."""

HOST = "127.0.0.1"
STOP_SECONDS = 20.0
_TELLING = re.compile(
    r"\bERROR\b|\bFATAL\b|Exception|Error:|No space left|\"level\": ?\"(?:error|critical)\""
)

Say = Callable[[str], None]


class CannotRun(Exception):  # noqa: N818 - a sentence for the person at the terminal
    """Something local cannot be started or has ended; the text is one sentence."""


def silent(_text: str) -> None:
    """Say nothing."""


def free_port() -> int:
    """Find a port nobody listens on; another program may take it before we do."""
    # Below the range of outgoing connections (32768 and up on Linux): a client that waits for a
    # stopped broker could get the broker's port as its own, and even connect to itself.
    for port in random.sample(range(20_000, 32_000), 1_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise CannotRun("there is no free port between 20000 and 32000")


def port_or_free(wanted: int, what: str, say: Say = silent, *, host: str = HOST) -> int:
    """Give the wanted port, or a free one if it is busy, saying so. 0 asks for any."""
    if wanted == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise CannotRun(f"cannot listen on {host}:{wanted}: {error.strerror}") from error
        else:
            return wanted
    found = free_port()
    say(f"port {wanted} is busy: {what} listens on {found}")
    return found


@contextlib.contextmanager
def interrupted_by_signals(at_once: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into one KeyboardInterrupt, so that we stop in order.

    A second signal calls `at_once` and ends this process; its children end with it.
    """
    received = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal received
        if received:
            at_once()
            os._exit(130)
        received = True
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


# A child that outlives us would hold ports and data. On Linux the kernel kills it when we die,
# which has to be asked for in the child itself, before it becomes the program. (preexec_fn
# would do it too, by running Python in a fork of a process with threads.)
_BECOME = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that started this one is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Child:
    """A program we started, its output in a log file; it never outlives us.

    The kernel watches the thread that started it: start children from the main thread, or from
    one that lives as long as they should.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path = ROOT,
        keep_log: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        become = [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid())]
        with log.open("ab" if keep_log else "wb") as output:
            self._process = subprocess.Popen(
                [*become, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=None if environ is None else dict(environ),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id; it stays the same when the child becomes its program."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code (negative: the signal that ended it), None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Ask it to end in order, and do not wait."""
        if self.exit_code is None:
            self._process.terminate()

    def stop(self, patience: float = STOP_SECONDS) -> int:
        """Ask it to end and wait; kill it, with all it started, when patience is over."""
        if self.exit_code is None:
            self.ask_to_stop()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait()

    def kill(self) -> None:
        """End it and all it started, at once."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def last_words(self) -> str:
        """Quote the line of its log that tells most."""
        return telling_line(self.log)

    def obituary(self) -> str:
        """Say in one sentence that and how it ended."""
        code = self.exit_code
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        return f"{self.name} {how}; its last words: {self.last_words()} (see {shown(self.log)})"


def shown(path: Path) -> str:
    """Give a path as a person in the checkout would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def telling_line(log: Path) -> str:
    """Quote the last line of a log that names an error, else its last line."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return "it left no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line) and not line.startswith("at ")]
    return (telling or lines or ["it said nothing"])[-1][:400]
