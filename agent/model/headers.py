"""The rules for the HTTP headers of a job: valid names and values, and headers that it may not set (RFC 9110)."""

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
"""In lower case: headers that the transfer sets itself, so that a job may not."""

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110, section 5.6.2
HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
