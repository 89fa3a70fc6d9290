"""Whether a bundle of Sigstore is true, by the library of that name.

It runs in a child process (`sigstore_child`): its imports take half a second and 50 MiB, which no other deployment
shall pay, and are given back with the process. It is an extra of the Python package.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import ToolMissing
from agent.host import process
from agent.units import MiB

_CHILD = Path(__file__).with_name("sigstore_child.py")
_TIMEOUT = 60.0
_LIMITS = process.ChildLimits(memory=512 * MiB, file=0)
"""Address space, most of which the libraries only map; a child takes 55 MiB of memory."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the library found; `fault` is None where all is well."""

    fault: str | None
    is_root: bool = False
    """Whether the fault is that the roots do not know the certificate's authority, or cannot be used."""


def check_bundle(question: Mapping[str, Any]) -> Answer:
    """Check a bundle against roots, identity and issuer; see `agent.formats.signatures.sigstore`.

    Raises:
        ToolMissing: the library is not installed.
        ProcessFailed: it failed, or did not end within 60 s.
        OSError: the process could not be started.
    """
    argv = [sys.executable, "-I", str(_CHILD)]
    done = process.run(argv, input=json.dumps(question).encode(), timeout=_TIMEOUT, limits=_LIMITS)
    answer: dict[str, Any] = json.loads(done.stdout)
    if "missing" in answer:
        raise ToolMissing(
            tool=f"the Python package sigstore ({answer['missing']})",
            hint="Install byoi-agent with its extra: pip install 'byoi-agent[sigstore]' (docs/provenance.md).",
        )
    return Answer(answer.get("fault"), bool(answer.get("root")))
