"""The part of ironic-python-agent that streams a raw image onto a disk, run by the interpreter of its own
environment.

    ipa_writer.py URL SHA256 DISK

Only a function that is told its disk is called, and no disk but a loop device is told. The agent itself is never
started: it would look for a disk by itself. A running agent has its imports behind it: to STEPS is written when they
are done.
"""

import os
import re
import sys
import time
from pathlib import Path

from ironic_python_agent import config
from ironic_python_agent.extensions.standby import (
    StandbyExtension,
)  # looks for its options at once, so after them


def main() -> None:
    url, sha256, disk = sys.argv[1:]
    if not re.fullmatch(r"/dev/loop\d+", disk):
        sys.exit(f"{disk} is no loop device: nothing else is written to here")
    config.CONF.set_override("image_download_connection_retries", 0)  # a fault is to be seen
    image = {"id": "image", "urls": [url], "os_hash_algo": "sha256", "os_hash_value": sha256}
    with Path(os.environ["STEPS"]).open("a") as steps:
        steps.write(f"write {time.time()}\n")
    extension = StandbyExtension()
    extension.partition_uuids = {}
    extension._stream_raw_image_onto_device(image, disk)


if __name__ == "__main__":
    main()
