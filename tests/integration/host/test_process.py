"""Child processes: what they get, what they give back, and that they end."""

import errno
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.errors import ToolMissing
from agent.host.process import MAX_OUTPUT, ChildLimits, FedProcess, ProcessFailed, run
from agent.units import MiB


def sh(script, **options):
    return run(["sh", "-c", script], **options)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_output_comes_back_as_bytes():
    done = sh("printf 'a\\377'; echo warned >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\xff", b"warned\n")


def test_the_environment_is_made_from_nothing(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD_FAKE", "1")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    lines = set(run(["env"], env_extra={"EXTRA": "x"}).stdout.decode().split())
    assert lines == {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "EXTRA=x"}


def test_arguments_reach_the_program_as_they_are():
    assert run(["printf", "%s", "$(id); a'b"]).stdout == b"$(id); a'b"


def test_stdin_is_empty_unless_given():
    assert run(["cat"]).stdout == b""
    data = bytes(range(256)) * 2000
    assert run(["cat"], input=data).stdout == data


def test_a_program_that_does_not_read_its_input_is_no_fault():
    assert sh("exit 0", input=b"x" * 1_000_000).returncode == 0


def test_no_descriptor_of_ours_is_inherited(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(fd, True)  # noqa: FBT003
    try:
        with pytest.raises(ProcessFailed):
            run(["test", "-e", f"/proc/self/fd/{fd}/."])
    finally:
        os.close(fd)


def test_failure_names_the_command_and_the_last_lines_of_stderr():
    with pytest.raises(ProcessFailed) as caught:
        sh("for i in 1 2 3 4 5 6 7; do echo line $i >&2; done; exit 3")
    text = str(caught.value)
    assert text.startswith("sh -c 'for i in")
    assert text.endswith("exit status 3: line 3; line 4; line 5; line 6; line 7")
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EIO


def test_stderr_cannot_command_the_terminal():
    with pytest.raises(ProcessFailed) as caught:
        sh("printf '\\033[2Jbad\\377\\n' >&2; exit 1")
    assert caught.value.stderr_tail == "?[2Jbad\\xff"


def test_other_exit_statuses_can_be_allowed():
    assert sh("exit 2", ok=(0, 2)).returncode == 2


def test_death_by_a_signal_is_told_by_its_name():
    with pytest.raises(ProcessFailed, match="killed by SIGSEGV"):
        sh("kill -SEGV $$")


def test_a_missing_program_is_named():
    with pytest.raises(ToolMissing) as caught:
        run(["no-such-tool-anywhere", "--help"])
    assert caught.value.message == "The rescue system lacks no-such-tool-anywhere."


@pytest.mark.parametrize("pipes", ["", "exec >&- 2>&-;"])
def test_the_time_limit_kills_the_whole_group(tmp_path, pipes):
    pids = tmp_path / "pids"
    started = time.monotonic()
    with pytest.raises(ProcessFailed, match="did not end in time") as caught:
        sh(f"{pipes} sleep 60 & echo $! $$ > {pids}; wait", timeout=0.5)
    assert caught.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - started < 10
    for pid in map(int, pids.read_text().split()):
        deadline = time.monotonic() + 5
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not alive(pid)


def test_a_daemon_left_behind_does_not_hold_us_up():
    started = time.monotonic()
    done = sh("sleep 20 & echo $!; echo ready")
    try:
        assert done.stdout.endswith(b"ready\n")
        assert time.monotonic() - started < 10
    finally:
        os.kill(int(done.stdout.split()[0]), 9)


def test_all_output_of_a_quick_program_arrives():
    assert len(run(["head", "-c", str(MAX_OUTPUT), "/dev/zero"]).stdout) == MAX_OUTPUT


def test_endless_output_is_stopped():
    with pytest.raises(ProcessFailed) as caught:
        run(["cat", "/dev/zero"])
    assert caught.value.errno == errno.EFBIG


def test_endless_stderr_is_cut_to_its_end():
    done = sh("head -c 1000000 /dev/zero >&2; echo the end >&2")
    assert len(done.stderr) == 65536
    assert done.stderr.endswith(b"the end\n")


def test_no_descriptor_leaks():
    before = descriptors()
    for _ in range(5):
        sh("echo x; exit 0", input=b"y")
        with pytest.raises(ProcessFailed):
            sh("exit 1")
        with pytest.raises(ToolMissing):
            run(["no-such-tool-anywhere"])
    assert descriptors() == before


# -- limits on programs that read what an image brought ------------------------------------------------------


def python(script, **limits):
    return run([sys.executable, "-I", "-c", script], limits=ChildLimits(**limits))


def test_a_program_with_limits_gets_its_arguments_and_gives_its_output():
    assert run(["printf", "%s", "--as=1"], limits=ChildLimits()).stdout == b"--as=1"
    assert run(["cat"], input=b"x" * 100_000, limits=ChildLimits()).stdout == b"x" * 100_000


def test_memory_is_limited():
    greedy = f"bytearray({100 * MiB})"
    assert python(greedy, memory=256 * MiB).returncode == 0
    with pytest.raises(ProcessFailed, match="MemoryError"):
        python(greedy, memory=96 * MiB)


def test_a_loop_ends_with_its_processor_time_and_is_not_told_as_slow():
    with pytest.raises(ProcessFailed, match=r"killed by SIG(XCPU|KILL)") as caught:
        python("while True: pass", cpu=1)
    assert caught.value.errno == errno.EIO


def test_files_are_limited_and_no_core_is_left(tmp_path):
    written = tmp_path / "written"
    with pytest.raises(ProcessFailed, match=r"File too large|SIGXFSZ"):
        run(["dd", "if=/dev/zero", f"of={written}", "bs=64k", "count=32"], limits=ChildLimits(file=MiB))
    assert written.stat().st_size <= MiB
    assert run(["sh", "-c", "ulimit -c"], limits=ChildLimits()).stdout == b"0\n"


def test_a_missing_program_is_named_behind_limits_too():
    with pytest.raises(ToolMissing) as caught:
        run(["no-such-tool-anywhere"], limits=ChildLimits())
    assert caught.value.message == "The rescue system lacks no-such-tool-anywhere."


# -- fed piece by piece ----------------------------------------------------------------------------------------


@pytest.fixture
def fed():
    """Start a program that is fed: fed(script). Ended with the test."""
    started = []

    def start(script, **options):
        started.append(FedProcess(["sh", "-c", script], **options))
        return started[-1]

    yield start
    for process in started:
        process.close()
        process.close()


def test_a_program_is_fed_and_ends(fed):
    process = fed("wc -c; echo more >&2; exit 3")
    piece = memoryview(bytearray(3 * MiB))
    for _ in range(5):
        process.feed(piece, 60)
    piece.release()  # nothing of it is kept
    done = process.finish(60, ok=(3,))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (3, str(15 * MiB).encode(), b"more\n")


def test_a_program_that_was_never_fed_ends_too(fed):
    assert fed("wc -c").finish(60).stdout.strip() == b"0"


def test_it_talks_while_it_is_fed(fed):
    process = fed("cat")
    for _ in range(8):
        process.feed(memoryview(bytes(100_000)), 60)
    assert len(process.finish(60).stdout) == 800_000


def test_one_that_says_too_much_is_ended(fed):
    process = fed("cat")
    with pytest.raises(ProcessFailed) as failed:
        process.feed(memoryview(bytes(4 * MAX_OUTPUT)), 60)
    assert failed.value.errno == errno.EFBIG


def test_one_that_ends_early_is_told(fed):
    process = fed("echo why >&2; exit 0")
    with pytest.raises(ProcessFailed, match="ended before it had read everything: why") as failed:
        process.feed(memoryview(bytes(100 * MiB)), 60)
    assert failed.value.errno == errno.EPIPE


def test_one_that_reads_nothing_is_told(fed):
    process = fed("sleep 100")
    with pytest.raises(ProcessFailed, match="reads no more of what it is given") as failed:
        process.feed(memoryview(bytes(10 * MiB)), 0.2)
    assert failed.value.errno == errno.ETIMEDOUT


def test_one_that_does_not_end_is_told(fed):
    with pytest.raises(ProcessFailed, match="did not end in time"):
        fed("exec sleep 100").finish(0.2)


def test_to_feed_is_given_up_from_another_thread(fed):
    process = fed("sleep 100")
    stopping = threading.Timer(0.1, process.stop)
    stopping.start()
    with pytest.raises(ProcessFailed) as failed:
        process.feed(memoryview(bytes(10 * MiB)), 60)
    stopping.join()
    assert failed.value.errno == errno.ECANCELED


def test_it_is_killed_when_it_is_closed(fed, tmp_path):
    process = fed(f"echo $$ >{tmp_path}/pid; exec sleep 100")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    process.close()
    assert not alive(int((tmp_path / "pid").read_text()))


def test_it_inherits_the_files_that_it_is_given(fed, tmp_path):
    (tmp_path / "file").write_text("content")
    with (tmp_path / "file").open() as file:
        process = fed(f"cat /proc/self/fd/{file.fileno()}", files=(file.fileno(),))
    assert process.finish(60).stdout == b"content"
