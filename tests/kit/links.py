"""Links of Markdown pages."""

import re
from pathlib import Path


def relative_links(page: Path) -> list[str]:
    """What a page links to by a path, without the part behind #; links to other sites are left out."""
    return re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
