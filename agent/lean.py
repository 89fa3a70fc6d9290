"""Libraries without what they load for others: structlog, and a door for aiohttp.

Both look for company when they are imported. structlog loads rich where it is installed, for tracebacks that the agent
does not print; aiohttp reads the system's certificates twice, for connections that the agent gives a TLS context of
their own. Together that is a third of the time that `byoi write` needs to start, and memory that a daemon keeps for
good (docs/performance.md).
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextmanager
def without(module: str) -> Iterator[None]:
    """Importing `module` fails in here as if it were not installed, unless it has been imported before."""
    hidden = module not in sys.modules
    if hidden:
        sys.modules[module] = None  # type: ignore[assignment]  # what the import statement reads as "not there"
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


@contextmanager
def without_certificates() -> Iterator[None]:
    """TLS contexts made in here trust no one, so that none of the system's certificates are read.

    By the environment, which is the process's: for imports, before there are threads
    (SSL_CTX_set_default_verify_paths(3)).
    """
    kept = {name: os.environ.get(name) for name in _CERTIFICATES}
    os.environ.update(dict.fromkeys(_CERTIFICATES, os.devnull))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with without("rich"):
    import structlog

__all__ = ["structlog", "without", "without_certificates"]
