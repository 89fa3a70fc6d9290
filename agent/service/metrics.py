"""Placeholder until the metrics land."""

from aiohttp import web


class Metrics:
    """Nothing yet."""

    def listen(self, event: object) -> None:
        """Nothing yet."""

    def text(self, status: object) -> bytes:
        """Nothing yet."""
        return b""

    @staticmethod
    @web.middleware
    async def middleware(request: web.Request, handler: object) -> web.StreamResponse:
        """Nothing yet."""
        return await handler(request)
