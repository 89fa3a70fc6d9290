"""Text from outside (disks, images, servers, configuration) made safe to show."""

# Shown in place of a secret.
HIDDEN = "***"
# The characters of a path or a configured value that a message shows.
MAX_SHOWN = 8192


def printable(text: str, limit: int | None = None) -> str:
    """The text with `?` for every unprintable character, which a terminal might interpret.

    Args:
        text: of any origin and length.
        limit: the number of characters that are kept; a longer text is cut and ends with `...`.
    """
    shown = "".join(character if character.isprintable() else "?" for character in text[:limit])
    return shown if limit is None or len(text) <= limit else shown + "..."
