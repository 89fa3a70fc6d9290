"""What can go wrong with an HTTP transfer: what another try may mend, what it cannot, and a file that has changed.

Raised and caught within this package alone: its source makes `ImageDownload` and `ImageChanged` of what is left. No
text of a fault holds a header value, userinfo or a value of a query.
"""

from agent.errors import Blame

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 531)})
"""Answers that another try may mend (RFC 9110, RFC 6585, RFC 8470; 520 to 530 are those of content delivery networks
whose origin fails); every other error status is final."""


class TransientFault(Exception):
    """A fault of the connection or of a busy server.

    Args:
        reason: what happened, fit for the user.
        retry_after: the raw Retry-After header of the answer, if there was one.
        hint: what to do about it when the attempts are used up.
    """

    def __init__(self, reason: str, *, retry_after: str | None = None, hint: str = "") -> None:
        self.hint = hint
        self.retry_after = retry_after
        super().__init__(reason)


class FatalFault(Exception):
    """A fault that ends the transfer.

    Args:
        reason: what happened, fit for the user.
        hint: what to do about it.
        blame: who has to mend it; the servers on the way are of the network.
        retryable: whether the same transfer may work later.
        status: the answer's, where that is what is wrong.
    """

    def __init__(
        self,
        reason: str,
        *,
        hint: str = "",
        blame: Blame = Blame.NETWORK,
        retryable: bool = False,
        status: int | None = None,
    ) -> None:
        self.status = status
        self.hint = hint
        self.blame = blame
        self.retryable = retryable
        super().__init__(reason)


class DeniedFault(FatalFault):
    """A registry, or its token service, does not let us in."""


class ChangedFault(Exception):
    """The file behind the URL is not the one that the transfer began with."""
