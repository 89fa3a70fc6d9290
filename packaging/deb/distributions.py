#!/usr/bin/env python3
"""Tells which distributions are in a site-packages directory: `copyright`, a line of the copyright file for each, or
`sbom`, a software bill of materials (CycloneDX 1.6, JSON).

    distributions.py copyright SITE
    distributions.py sbom SITE VERSION      VERSION of the package; SOURCE_DATE_EPOCH is its time
"""

import json
import os
import sys
import uuid
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

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


def component(about: metadata.PackageMetadata) -> dict[str, Any]:
    """A distribution as the bill of materials has it. Its purl is what advisories are looked up by."""
    purl = f"pkg:pypi/{about['Name'].lower().replace('_', '-')}@{about['Version']}"
    expression = about.get("License-Expression")
    return {
        "type": "library",
        "bom-ref": purl,
        "name": about["Name"],
        "version": about["Version"],
        "licenses": [{"expression": expression} if expression else {"license": {"name": licence(about)}}],
        "purl": purl,
    }


def bill(found: list[metadata.PackageMetadata], version: str) -> dict[str, Any]:
    """The bill of materials of the package, the same for the same content."""
    components = [component(about) for about in found]
    content = json.dumps([version, components])
    when = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}",
        "version": 1,
        "metadata": {
            "timestamp": when.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "component": {
                "type": "application",
                "bom-ref": "byoi-agent",
                "name": "byoi-agent",
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
            },
        },
        "components": components,
    }


wanted, site = sys.argv[1:3]
distributions = sorted(
    (distribution.metadata for distribution in metadata.distributions(path=[site])),
    key=lambda about: about["Name"].lower(),
)
if wanted == "sbom":
    print(json.dumps(bill(distributions, sys.argv[3]), indent=1))
else:
    for each in distributions:
        print(f"  {each['Name']} {each['Version']}: {licence(each)}; {holder(each)}")
