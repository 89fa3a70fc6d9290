"""Where a list that a registry gives in pages goes on: the header Link, read strictly. Pure.

Sources: RFC 8288, section 3; the OCI distribution specification 1.1, "Listing Referrers".
"""

import re
from collections.abc import Iterable, Sequence

from agent.formats.oci.manifest import ManifestRefused
from agent.model.url import MAX_URL_LENGTH

# What has been matched is given up nowhere (`++`, `*+`): the time is that of one reading.
_LINK = re.compile(r'<([^<>]*+)>((?:[^",]|"(?:[^"\\]|\\.)*+")*+)')
_PARAMETER = re.compile(r';\s*+([^\s=;,"]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s";,]*+))')


def next_page(links: Iterable[str]) -> str | None:
    """The target of the first link to a next page, as it stands there; None where there is none.

    Args:
        links: the values of the header, in order.

    Raises:
        ManifestRefused: they are longer than any that means well.
    """
    text = ",".join(links)
    if len(text) > MAX_URL_LENGTH:
        raise ManifestRefused(f"the header Link of its list has {len(text)} characters")
    for target, parameters in _LINK.findall(text):
        if "next" in _relations(parameters):
            return str(target)
    return None


def _relations(parameters: str) -> Sequence[str]:
    """What a link says that it is; the first time that it says so counts (RFC 8288, section 3.3)."""
    for name, quoted, plain in _PARAMETER.findall(parameters):
        if name.lower() == "rel":
            return str(quoted or plain).lower().split()
    return ()


def is_filtered(applied: Iterable[str]) -> bool:
    """Whether a list is of the kind of artifact that was asked for alone.

    Args:
        applied: the values of the header OCI-Filters-Applied.
    """
    return "artifactType" in (name.strip() for value in applied for name in value.split(","))
