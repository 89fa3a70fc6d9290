"""The options that choose a disk of the inventory: --disk-group and --disk-hint, for `byoi write` and `byoi deploy`.

They go before the members `diskGroupId` and `disk` of a job document.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from agent.cli.job_options import USAGE_HINT, usage
from agent.errors import Fault, JobInvalid
from agent.model.selector import DiskSelector, parse_selector

_OPTION = "--disk-hint"


def read_hints(options: argparse.Namespace) -> DiskSelector | None:
    """The selector that the hints of --disk-hint make; None where there are none.

    Raises:
        JobInvalid: they make none, or the disk is given otherwise too.
    """
    if not options.disk_hint:
        return None
    for other in ("disk", "disk_group"):
        if getattr(options, other, None) is not None:
            raise usage(_OPTION, f"stands beside --{other.replace('_', '-')}; give one of them")
    faults: list[Fault] = []
    selector = parse_selector(_document(options.disk_hint), _OPTION, faults)
    if selector is None:
        raise JobInvalid(faults, USAGE_HINT)
    return selector


def _document(items: Sequence[str]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for item in items:
        key, found, value = item.partition("=")
        if not found:
            raise usage(_OPTION, "expected KEY=VALUE, such as serial=Z1 or size='>= 400'")
        if key in document:
            raise usage(_OPTION, f"{key} is given twice")
        if re.match("=(?!=)", value):
            # Who types size==400 means equality; Ironic's operator = means "at least".
            raise usage(
                _OPTION, f"{key}= and an operator =, which means >=; write {key}=VALUE or {key}='>= VALUE'"
            )
        document[key] = value
    return document
