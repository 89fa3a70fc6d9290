"""The steps as a conductor reads them, and how it wants disks erased."""

import pytest

from agent.service.ironic.steps import CLEAN_STEPS, DEPLOY_STEPS, Erasure, erasure_of, listed


@pytest.mark.parametrize(("kind", "steps"), [("deploy", DEPLOY_STEPS), ("clean", CLEAN_STEPS)])
def test_each_step_has_what_a_conductor_insists_on(kind, steps):
    document = listed(kind, steps)
    assert document["hardware_manager_version"] == {"ByoiAgent": "1"}
    found = document[f"{kind}_steps"]["ByoiAgent"]
    assert {step["step"]: step["priority"] for step in found} == steps
    assert all(step["interface"] == "deploy" and step["reboot_requested"] is False for step in found)


def test_the_image_is_written_by_a_step_of_its_own():
    assert DEPLOY_STEPS["write_image"] == 80


def test_the_operators_choice_of_erasure_comes_with_the_node():
    told = {
        "agent_enable_nvme_secure_erase": False,
        "agent_enable_ata_secure_erase": False,
        "agent_continue_if_secure_erase_failed": True,
    }
    assert erasure_of({"driver_internal_info": told}) == Erasure(
        nvme_by_itself=False, ata_by_itself=False, overwrite_after_failure=True
    )


@pytest.mark.parametrize(
    "node", [None, {}, "x", {"driver_internal_info": []}, {"driver_internal_info": {"a": 1}}]
)
def test_where_nothing_is_told_a_failed_erasure_is_a_failure(node):
    assert erasure_of(node) == Erasure(nvme_by_itself=True, ata_by_itself=True, overwrite_after_failure=False)
