"""aiohttp, imported without the system's certificates: every https request brings a TLS context of its own.

Import it from here before anything else of it. A request that brought none would trust no server.
"""

from agent.lean import without_certificates

with without_certificates():
    import aiohttp

__all__ = ["aiohttp"]
