"""Which entry and which layer are meant; where two could be, none is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.oci.choose import MAX_LOOKED_AT, candidates, choose_entry, choose_layer
from agent.formats.oci.look import Look
from agent.formats.oci.manifest import Descriptor, Index, Manifest, ManifestRefused


def entry(number: int, architecture: str | None = None, disk_type: str | None = None) -> Descriptor:
    annotations = {} if disk_type is None else {"disktype": disk_type}
    return Descriptor(f"sha256:{number:064x}", 1000, annotations=annotations, architecture=architecture)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ("x86_64", "amd64"),
        ("x86_64", "x86_64"),
        ("aarch64", "arm64"),
        ("aarch64", "aarch64"),
        ("riscv64", "riscv64"),
    ],
)
def test_the_entry_for_this_machine_by_either_name(machine, name):
    wanted = entry(1, name)
    assert choose_entry(Index((entry(2, "s390x"), wanted)), machine) is wanted


def test_entries_that_name_no_machine_are_for_any():
    only = entry(1)
    assert choose_entry(Index((only,)), "x86_64") is only
    assert choose_entry(Index((only, entry(1))), "x86_64") == only  # twice the same is one


def test_an_entry_that_names_this_machine_goes_before_one_that_names_none():
    named = entry(1, "amd64")
    assert choose_entry(Index((entry(2), named)), "x86_64") is named


def test_attestations_are_passed_over():
    image = entry(1, "amd64")
    assert choose_entry(Index((image, entry(2, "unknown"))), "x86_64") is image
    alone = entry(3)
    assert choose_entry(Index((alone, entry(2, "unknown"))), "x86_64") is alone


def test_the_disk_type_decides_between_several():
    kinds = ["applehv", "qemu", "hyperv", "wsl"]
    machines = [entry(number, "x86_64", kind) for number, kind in enumerate(kinds)]
    assert choose_entry(Index(machines), "x86_64") is machines[1]
    metal = entry(9, "amd64", "metal")
    assert choose_entry(Index((*machines, metal)), "x86_64") is metal


@pytest.mark.parametrize("kinds", [("applehv", "hyperv"), ("qemu", "qemu"), (None, None)])
def test_several_that_could_be_meant_are_listed(kinds):
    entries = [entry(number, "amd64", kind) for number, kind in enumerate(kinds)]
    with pytest.raises(ManifestRefused, match="2 images for amd64, and nothing says") as caught:
        choose_entry(Index(entries), "x86_64")
    assert all(one.digest in caught.value.detail for one in entries)
    assert "by its digest" in caught.value.hint


def test_no_entry_for_this_machine():
    with pytest.raises(
        ManifestRefused, match="no image for amd64, which this machine is: there is arm64, s390x"
    ):
        choose_entry(Index((entry(1, "arm64"), entry(2, "s390x"))), "x86_64")
    with pytest.raises(ManifestRefused, match="there is none at all"):
        choose_entry(Index(()), "x86_64")


DISK, TAR, KUBEVIRT, TEXT = Look("qcow2"), Look("tar", ("gzip",)), Look("tar", (), "disk/a.img"), Look("text")


@pytest.mark.parametrize(
    ("looks", "chosen"),
    [
        ((TEXT, DISK), 1),
        ((TAR, DISK), 1),
        ((TEXT, TAR, TEXT), 1),
        ((TAR, KUBEVIRT, TAR), 1),
        ((Look("gzip"), TEXT), 0),
    ],
)
def test_the_one_layer_that_is_a_disk(looks, chosen):
    layers = [entry(number) for number in range(len(looks))]
    assert choose_layer(layers, looks) is layers[chosen]


def test_several_disks_are_listed():
    layers = [
        Descriptor(entry(1).digest, 1000, annotations={"org.opencontainers.image.title": "a.qcow2"}),
        entry(2),
        entry(3),
    ]
    with pytest.raises(ManifestRefused, match="2 disk images") as caught:
        choose_layer(layers, (DISK, TEXT, KUBEVIRT))
    assert "'a.qcow2' (sha256:000000000000...): qcow2; " in caught.value.detail
    assert "tar with disk/a.img" in caught.value.detail
    assert "text" not in caught.value.detail


@pytest.mark.parametrize("looks", [(TEXT, TEXT), (TAR, TAR), ()])
def test_no_disk(looks):
    with pytest.raises(ManifestRefused, match="no disk image"):
        choose_layer([entry(number) for number in range(len(looks))], looks)


def test_layers_that_are_too_small_are_no_candidates():
    small = Descriptor(entry(1).digest, 511)
    assert candidates(Manifest((small, entry(2)))) == (entry(2),)
    with pytest.raises(ManifestRefused, match="no layer that could be"):
        candidates(Manifest((small,)))


def test_the_layers_that_are_looked_into_are_bounded():
    layers = [entry(number) for number in range(MAX_LOOKED_AT + 1)]
    assert len(candidates(Manifest(layers[1:]))) == MAX_LOOKED_AT
    with pytest.raises(ManifestRefused, match=f"at most {MAX_LOOKED_AT} are looked into"):
        candidates(Manifest(layers))


@given(
    st.lists(
        st.builds(
            entry,
            st.integers(0, 5),
            st.sampled_from([None, "amd64", "x86_64", "arm64", "unknown"]),
            st.sampled_from([None, "qemu", "raw", "wsl"]),
        ),
        max_size=8,
    )
)
def test_an_entry_that_is_chosen_is_never_for_another_machine(entries):
    try:
        chosen = choose_entry(Index(entries), "x86_64")
    except ManifestRefused:
        return
    assert chosen.architecture in (None, "amd64", "x86_64")
