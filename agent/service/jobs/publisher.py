"""The status document as clients see it, its revision, and everybody who waits for a change of it.

Filled by `StatusView`; read by the API, the control-plane client and the systemd notifier, all
on the event loop. A document is encoded once for each revision, however many clients ask: that is what keeps a thousand
pollers from slowing a deployment.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.model.events import DeployEvent, Finished, Listener, Noted, StageBegan, StageEnded

# What a subscriber may lag behind; one that lags more has its subscription ended.
MAX_QUEUED = 256
# More than an agent shows after the last one that its journal has.
REVISION_GAP = 1_000_000
# Members that change with every look at a deployment and tell nothing by themselves.
_RESTLESS = frozenset({"revision", "updatedAt"})


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event for subscribers, and how it is sent in a stream (WHATWG HTML, section 9.2.6), made once for all."""

    event: str
    payload: bytes


# A queue that ends with None was too slow, or the daemon stops.
Subscription = asyncio.Queue[StreamEvent | None]


class StatusPublisher:
    """Holds one document at a time.

    Revisions grow, also from one process to the next: they begin at the time of day in milliseconds, or well above the
    last one that the journal knows of, should the clock have been put back.
    """

    def __init__(self, document: Mapping[str, Any], last_revision: int = 0) -> None:
        self.revision = max(int(time.time() * 1000), last_revision + REVISION_GAP)
        self._shown = document
        self._surroundings: dict[str, Any] = {}
        self._document: dict[str, Any] = {**document, "revision": self.revision}
        self._encoded: bytes | None = None
        self._changed = asyncio.Event()
        self._closed = False
        self._subscriptions: set[Subscription] = set()

    @property
    def document(self) -> Mapping[str, Any]:
        """The document that is shown, with its revision."""
        return self._document

    def encoded(self) -> bytes:
        """The document as JSON in UTF-8."""
        if self._encoded is None:
            self._encoded = json.dumps(self._document).encode()
        return self._encoded

    def show(self, document: Mapping[str, Any]) -> bool:
        """Show a document; a new revision where it says anything new. Returns whether it does."""
        self._shown = document
        whole = {**document, **self._surroundings}
        if _essence(whole) == _essence(self._document):
            return False
        self.revision += 1
        self._document = {**whole, "revision": self.revision}
        self._encoded = None
        self._wake()
        return True

    def surround(self, **members: object) -> None:
        """Show these members (`agent.model.surroundings`) in this document, and in all that are shown from now on."""
        self._surroundings |= members
        if self.show(self._shown):
            self.tell("status")

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait(self, since: int | None, seconds: float) -> bool:
        """Wait until the revision is not `since` any more; False if it still is after so many seconds or at the end."""
        deadline = asyncio.get_running_loop().time() + seconds
        while since == self.revision:
            if self._closed:
                return False
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return False
        return True

    def tell(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Tell all subscribers.

        Args:
            event: its name.
            data: its document; the one that is shown if there is none.
        """
        if not self._subscriptions:
            return
        told = self._told(event, data)
        for subscription in tuple(self._subscriptions):
            if subscription.qsize() >= MAX_QUEUED:
                self._end(subscription)
            else:
                subscription.put_nowait(told)

    def _told(self, event: str, data: Mapping[str, Any] | None) -> StreamEvent:
        # One line of data does: JSON escapes its line breaks.
        text = self.encoded() if data is None else json.dumps(data).encode()
        return StreamEvent(event, b"id: %d\nevent: %s\ndata: %s\n\n" % (self.revision, event.encode(), text))

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """A queue of everything that is told from now on; the first event is the document as it is."""
        subscription: Subscription = asyncio.Queue()
        subscription.put_nowait(self._told("status", None))
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End all subscriptions and all waiting: the daemon stops, and whoever waits is answered now."""
        self._closed = True
        self._wake()
        for subscription in tuple(self._subscriptions):
            self._end(subscription)

    def _end(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)
        subscription.put_nowait(None)


def event_teller(publisher: StatusPublisher) -> Listener:
    """A listener that tells a deployment's stages and notes to the subscribers."""

    def listen(event: DeployEvent) -> None:
        match event:
            case StageBegan(stage):
                publisher.tell(
                    "stage", {"stage": stage.value, "state": "begin", "seconds": None, "failed": False}
                )
            case StageEnded(stage, seconds, failed):
                ended = {"stage": stage.value, "state": "end", "seconds": round(seconds, 3), "failed": failed}
                publisher.tell("stage", ended)
            case Noted(text):
                publisher.tell("note", {"text": text})
            case Finished():
                pass  # `JobRun` tells the result, once the journal has it

    return listen


def _essence(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in _RESTLESS}
