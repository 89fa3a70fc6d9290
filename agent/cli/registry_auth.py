"""The file of --registry-auth: credentials for a registry, in one of the forms in which people have them. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from agent.model.job_text import TextRefused, bounded_text

MAX_FILE_BYTES = 1024 * 1024
"""Logins for many registries are in one file of docker's."""


def read_registry_auth(data: bytes, url: str) -> dict[str, Any]:
    """The member `registryAuth` for the registry of a URL; what is in it is for the check of the job.

    Args:
        data: a line `USER:PASSWORD`, the member itself as JSON, or docker's or podman's file of logins (`auths`).
        url: of the image, as it was given.

    Raises:
        ValueError: it is none of these; the text says what is wrong, and has nothing of the file.
    """
    try:
        text = bounded_text(data)
    except TextRefused:
        raise ValueError("it is no text") from None
    if not text.lstrip().startswith("{"):
        return _line(text)
    try:
        document = json.loads(text)
    except ValueError:
        raise ValueError("it begins as JSON and is none") from None
    return _login(document["auths"], url) if isinstance(document.get("auths"), dict) else document


def _line(text: str) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.strip()]
    user, colon, password = lines[0].partition(":") if len(lines) == 1 else ("", "", "")
    if not colon:
        raise ValueError("it is neither one line USER:PASSWORD nor JSON")
    return {"username": user, "password": password}


def _login(logins: Mapping[str, Any], url: str) -> dict[str, Any]:
    """The login for a registry: that of the longest path, as containers-auth.json(5) has it."""
    parts = urlsplit(url)
    sought = re.split("[:@]", parts.path)[0]
    places = {_place(name): login for name, login in logins.items()}
    paths = [sought[:at] for at, character in enumerate(sought) if character == "/"] + [sought]
    fitting = [place for path in paths if (place := parts.netloc + path) in places]
    if not fitting:
        raise ValueError(f"it has no login for {parts.netloc or 'this URL'}")
    login = places[fitting[-1]]
    known = ("username", "password", "auth")
    found = {key: login[key] for key in known if login.get(key)} if isinstance(login, dict) else {}
    if not found:
        raise ValueError(
            f"its login for {parts.netloc} is kept by a helper, or is a token for docker alone: give one line "
            "USER:PASSWORD instead"
        )
    return {"auth": found["auth"]} if "auth" in found else found


def _place(name: str) -> str:
    """Host and path of a login's name; docker wrote URLs once."""
    bare = name.partition("://")[2] or name
    return bare.rstrip("/").removesuffix("/v1").removesuffix("/v2")
