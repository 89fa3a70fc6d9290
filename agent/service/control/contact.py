"""Whether the control plane answers: since when, why not, and when it is tried again. Shown in the status."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.model.surroundings import ContactState, control_plane_member
from agent.service.control.answers import ControlFault

Show = Callable[[Mapping[str, Any]], object]
"""Is given the member `controlPlane` of the status document whenever it has changed."""


class Contact:
    """How the last call went, whichever of the two calls it was."""

    def __init__(self, url: str, show: Show, clock: Callable[[], float] = time.time) -> None:
        """Nothing has been asked yet.

        Args:
            url: of the control plane; holds no secret.
            show: is told of every change, and once now.
            clock: seconds since the epoch.
        """
        self._url = url
        self._show = show
        self._clock = clock
        self._state = ContactState.UNASKED
        self._since = clock()
        self._show(control_plane_member(url, self._state, since=self._since))

    def succeeded(self) -> None:
        """It has answered."""
        if self._state is not ContactState.ANSWERING:
            self._enter(ContactState.ANSWERING)
            self._show(control_plane_member(self._url, self._state, since=self._since))

    def failed(self, fault: ControlFault, delay: float) -> None:
        """It has not, and is tried again in `delay` seconds."""
        if self._state is not ContactState.FAILING:
            self._enter(ContactState.FAILING)
        self._show(
            control_plane_member(
                self._url,
                self._state,
                since=self._since,
                reason=str(fault),
                trouble=fault.trouble,
                next_try=self._clock() + delay,
            )
        )

    def _enter(self, state: ContactState) -> None:
        self._state, self._since = state, self._clock()
