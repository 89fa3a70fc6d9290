"""`python -m agent.cli` is `byoi`."""

import sys

from agent.cli import main

sys.exit(main())
