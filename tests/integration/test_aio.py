import subprocess
import sys


def test_a_thread_apart_that_hangs_keeps_no_process_from_its_end():
    program = (
        "import asyncio, threading\n"
        "from agent.aio import run_apart\n"
        "async def main(): run_apart(threading.Event().wait)\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
