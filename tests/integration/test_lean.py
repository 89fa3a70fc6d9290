"""What the agent's libraries load with them: nothing that it does not use, and that at no one else's expense."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("entry", ["agent.deploy.runner", "agent.service.assembly"])
def test_neither_rich_nor_certificates_are_loaded_to_deploy_or_to_serve(entry: str) -> None:
    # Which connector class the contexts belong to is aiohttp's own affair: count what all contexts trust.
    script = f"""
import gc, ssl, sys
import {entry}
import aiohttp, structlog
assert "rich" not in sys.modules, "rich"
contexts = [found for found in gc.get_objects() if isinstance(found, ssl.SSLContext)]
contexts += [found for found in vars(aiohttp.connector).values() if isinstance(found, ssl.SSLContext)]
print(len(contexts), sum(context.cert_store_stats()["x509"] for context in contexts))
import rich.console
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    found, trusted = map(int, output.split())
    assert found > 0
    assert trusted == 0
