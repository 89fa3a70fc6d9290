"""Builds what the lab needs before the clock of a test runs: `python -m tests.lab.prepare`, as packaging/dev/test does.

Without it the first test that asks for something builds it. BYOI_LAB=matrix prepares for the whole matrix.
"""

import asyncio
import os
import sys

from tests.lab import images, mirror, rescue
from tests.lab.matrix import cases


def main() -> None:
    """Images, the rescues, and the saved state of the usual one."""
    images.check_tools()
    for case in cases(everything=os.environ.get("BYOI_LAB") == "matrix"):
        made = images.image(
            case.system, case.table, case.sector_size, case.form, esp=case.esp, full=case.full
        )
        print(made.path, file=sys.stderr)
        print(rescue.rescue_directory(case.rescue), file=sys.stderr)
    print(mirror.image(), file=sys.stderr)
    asyncio.run(rescue.save("bios"))
    for panic in rescue.second_starts:
        print(f"started a second time after: {panic}", file=sys.stderr)


if __name__ == "__main__":
    main()
