"""Which HTTP request headers a job may carry: names, values, and those that belong to the transfer (RFC 9110)."""

import re

RESERVED_HEADERS = frozenset(
    name.lower()
    for name in (
        "Accept-Encoding",
        "Connection",
        "Content-Length",
        "Expect",
        "If-Match",
        "If-Modified-Since",
        "If-None-Match",
        "If-Range",
        "If-Unmodified-Since",
        "Keep-Alive",
        "Proxy-Authorization",
        "Range",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    )
)
"""Headers of a request that the transfer itself decides on; a job may not set them."""

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110, section 5.6.2
HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
