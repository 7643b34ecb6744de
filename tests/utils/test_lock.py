"""A lock has one owner at a time and ends with its process."""

import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitext.utils import lock as lock_module
from minitext.utils.lock import lock

# the module alone, without the seconds that importing torch takes
IMPORT = "import sys, time\nfrom pathlib import Path\nfrom lock import lock\npath = Path(sys.argv[1])\n"
HOLD = "with lock(path):\n    print('held', flush=True)\n    sys.stdin.read()\n"
# without the lock, two processes that read before either writes lose numbers
COUNT = """for _ in range(20):
    with lock(path.with_suffix(".lock")):
        number = int(path.read_text())
        time.sleep(0.002)
        path.write_text(str(number + 1))
"""


def start(code: str, path: Path) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", IMPORT + code, path], cwd=Path(lock_module.__file__).parent, **pipes)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that holds the lock until its input is closed."""
    process = start(HOLD, tmp_path / "a.lock")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_is_held_in_the_block_and_its_file_is_deleted(tmp_path: Path):
    path = tmp_path / "a.lock"
    for _ in range(2):
        with lock(path, wait=False):
            assert path.exists()
            with pytest.raises(BlockingIOError, match="another process holds this lock"), lock(path, wait=False):
                pass
            assert path.exists()
        assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_with_an_error_in_the_block(tmp_path: Path):
    with pytest.raises(ValueError), lock(tmp_path / "a.lock"):
        raise ValueError
    with lock(tmp_path / "a.lock", wait=False):
        pass


def test_a_lock_of_another_process_is_refused_or_waited_for(tmp_path: Path, other: subprocess.Popen, monkeypatch):
    path = tmp_path / "a.lock"
    with pytest.raises(BlockingIOError), lock(path, wait=False):
        pass
    monkeypatch.setattr(lock_module.time, "sleep", lambda seconds: other.communicate())  # ends the other process
    with lock(path):
        assert other.returncode == 0
        assert path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_lock_ends_with_a_process_that_is_killed(tmp_path: Path, other: subprocess.Popen):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "a.lock").exists()  # nobody deleted it
    with lock(tmp_path / "a.lock", wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_processes_that_create_and_delete_the_lock_file_exclude_each_other(tmp_path: Path):
    (tmp_path / "number").write_text("0")
    processes = [start(COUNT, tmp_path / "number") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "60"


@pytest.mark.skipif(sys.platform == "win32", reason="flock is not used on Windows")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_on_a_disk_without_locks_the_block_runs(tmp_path: Path, monkeypatch, code: int):
    def unsupported(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(lock_module.fcntl, "flock", unsupported)
    with lock(tmp_path / "a.lock", wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError), lock(tmp_path / "nowhere" / "a.lock"):
        pass
