#!/usr/bin/env python3
"""Prints a line of the copyright file for each distribution in a site-packages directory."""

import sys
from importlib import metadata

CLASSIFIER = "License :: "
LONGEST = 60


def licence(about: metadata.PackageMetadata) -> str:
    """What a distribution calls its licence, on one line."""
    classified = [
        name.rsplit(" :: ", 1)[-1] for name in about.get_all("Classifier", []) if name.startswith(CLASSIFIER)
    ]
    # The field was free text once, and some hold a whole licence.
    free = " ".join(str(about.get("License", "")).split())
    return (
        about.get("License-Expression")
        or "; ".join(classified)
        or (free if len(free) < LONGEST else "see its text")
    )


def holder(about: metadata.PackageMetadata) -> str:
    """Whom a distribution names as its author."""
    named = (about.get(field) for field in ("Author", "Author-email", "Maintainer", "Maintainer-email"))
    return next((" ".join(name.split()) for name in named if name), "its authors")


found = [distribution.metadata for distribution in metadata.distributions(path=[sys.argv[1]])]
for each in sorted(found, key=lambda about: about["Name"].lower()):
    print(f"  {each['Name']} {each['Version']}: {licence(each)}; {holder(each)}")
