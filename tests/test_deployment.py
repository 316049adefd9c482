"""What the tests start for themselves ends with them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment import until

ROOT = Path(__file__).resolve().parent.parent


def runs(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_process_of_a_test_ends_when_the_tests_are_killed(tmp_path):
    """A kill -9 leaves no time to stop it; it would go on, and disturb the next who measures."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.deployment import Process\n"
        "log = Path(sys.argv[1]) / 'log'\n"
        "one = Process(['http.server', '--bind', '127.0.0.1', '0'], {}, 1, log)\n"
        "print(one.popen.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            pid = int(parent.stdout.readline())
            assert runs(pid)
        finally:
            parent.kill()
    until(lambda: not runs(pid), f"process {pid} ends", 10)
