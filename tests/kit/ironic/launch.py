"""Run by Ironic's own Python: `launch.py --config-file FILE` is the command `ironic`, only less patient.

How long a conductor waits between two looks at a command is the default of an option, whatever the file says: it is
taken when the module is imported, before any file is read. By that default of six seconds tests would wait for nothing.
"""

import sys

import ironic.command  # noqa: F401 - it chooses the kind of threads, before anything that makes some
from ironic.conf import CONF

CONF.set_default("command_wait_interval", 1, group="agent")


def main() -> None:
    """Run the conductor and its API until they are ended."""
    # Not before the default is set.
    from ironic.command import singleprocess

    singleprocess.main()


if __name__ == "__main__":
    sys.argv[0] = "ironic"
    main()
