"""The steps that a conductor may order, as it lists them.

Each has the interface `deploy`. A conductor's own configuration decides which clean steps run, and in which order; what
is here are the defaults of ironic-python-agent, so that it means the same nodes and the same work.
"""

from dataclasses import dataclass
from typing import Any

MANAGER = "ByoiAgent"
VERSION = "1"

WRITE_IMAGE = "write_image"
ERASE_DEVICES = "erase_devices"
ERASE_METADATA = "erase_devices_metadata"
ERASE_EXPRESS = "erase_devices_express"

DEPLOY_STEPS = {WRITE_IMAGE: 80, ERASE_METADATA: 0}
CLEAN_STEPS = {ERASE_DEVICES: 10, ERASE_METADATA: 99, ERASE_EXPRESS: 0}
"""Names and priorities; 0: only where the operator asks for it."""


def listed(kind: str, steps: dict[str, int]) -> dict[str, Any]:
    """The result of `get_deploy_steps` or `get_clean_steps`.

    Args:
        kind: deploy or clean.
        steps: names and priorities.
    """
    more = {"abortable": True} if kind == "clean" else {}
    return {
        f"{kind}_steps": {
            MANAGER: [
                {"step": name, "interface": "deploy", "priority": priority, "reboot_requested": False, **more}
                for name, priority in steps.items()
            ]
        },
        "hardware_manager_version": {MANAGER: VERSION},
    }


@dataclass(frozen=True, slots=True)
class Erasure:
    """How the operator of Ironic wants disks erased (`[deploy]` of its configuration, sent along with the node)."""

    nvme_by_itself: bool = True
    ata_by_itself: bool = True
    overwrite_after_failure: bool = False
    """Whether a disk that failed to erase itself is overwritten; else the step has failed."""


def erasure_of(node: object) -> Erasure:
    """What a node tells of it; Ironic's own defaults where it tells nothing."""
    told = node.get("driver_internal_info") if isinstance(node, dict) else None
    info = told if isinstance(told, dict) else {}
    return Erasure(
        info.get("agent_enable_nvme_secure_erase") is not False,
        info.get("agent_enable_ata_secure_erase") is not False,
        info.get("agent_continue_if_secure_erase_failed") is True,
    )
