#!/usr/bin/python3
"""Reads what `byoi status --json` said; exit status 0 only when no job runs and no reboot is due.

What cannot be understood counts as busy: this decides whether a daemon may be restarted.
"""

import json
import sys

try:
    status = json.load(sys.stdin)
    reboot = status.get("reboot") or {}
    stays_up = reboot.get("state") in (None, "disabled", "calledOff", "failed")
    idle = status["status"] in (None, "done", "error") and stays_up
except (ValueError, KeyError, AttributeError):
    idle = False
sys.exit(0 if idle else 1)
