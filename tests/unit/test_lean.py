"""What the agent's libraries load with them: nothing that it does not use, and that at no one else's expense."""

import os
import ssl
import sys

import pytest

from agent.lean import without, without_certificates


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
