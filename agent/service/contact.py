"""Whether somebody whom the agent asks answers, and has something for it: since when, why not, when it is tried again.
Shown in the status.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.model.surroundings import ContactState, Trouble, contact_member

Show = Callable[[Mapping[str, Any]], object]
"""Is given the member of the status document whenever it has changed."""


class Contact:
    """How the last call went, whichever of the two calls it was."""

    def __init__(self, url: str, show: Show, clock: Callable[[], float] = time.time) -> None:
        """Nothing has been asked yet.

        Args:
            url: that is asked; holds no secret.
            show: is told of every change, and once now.
            clock: seconds since the epoch.
        """
        self._url = url
        self._show = show
        self._clock = clock
        self._state = ContactState.UNASKED
        self._since = clock()
        self._show(contact_member(url, self._state, since=self._since))

    def succeeded(self) -> None:
        """It has answered."""
        if self._state is not ContactState.ANSWERING:
            self._enter(ContactState.ANSWERING)
            self._show(contact_member(self._url, self._state, since=self._since))

    def waits(self, reason: str, delay: float) -> None:
        """It has answered that there is nothing yet, for this reason, and is asked again in `delay` seconds."""
        self._come_to(ContactState.WAITING, reason, None, delay)

    def failed(self, reason: str, trouble: Trouble, delay: float) -> None:
        """It has not, and is tried again in `delay` seconds."""
        self._come_to(ContactState.FAILING, reason, trouble, delay)

    def _come_to(self, state: ContactState, reason: str, trouble: Trouble | None, delay: float) -> None:
        if self._state is not state:
            self._enter(state)
        self._show(
            contact_member(
                self._url,
                self._state,
                since=self._since,
                reason=reason,
                trouble=trouble,
                next_try=self._clock() + delay,
            )
        )

    def _enter(self, state: ContactState) -> None:
        self._state, self._since = state, self._clock()
