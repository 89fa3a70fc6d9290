"""What the agent's libraries load with them: nothing that it does not use, and that at no one else's expense."""

import os
import ssl
import subprocess
import sys

import pytest

from agent.lean import without, without_certificates


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


def test_a_hidden_module_is_not_there_and_comes_back() -> None:
    assert "this" not in sys.modules
    with pytest.raises(ImportError), without("this"):
        import this  # noqa: F401
    assert "this" not in sys.modules


def test_a_module_that_is_loaded_stays() -> None:
    with without("ssl"):
        import ssl as again
    assert again is ssl
    assert sys.modules["ssl"] is ssl


def test_certificates_of_the_environment_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/mine.pem")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with without_certificates():
        assert ssl.create_default_context().cert_store_stats()["x509"] == 0
    assert os.environ["SSL_CERT_FILE"] == "/etc/mine.pem"
    assert "SSL_CERT_DIR" not in os.environ
