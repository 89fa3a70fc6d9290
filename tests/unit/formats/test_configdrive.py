import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigDriveCreate
from agent.formats.configdrive import MAX_CONTENT, DriveContent, build_tree, directories, public_keys
from agent.units import MiB

SEED = bytes(range(256)) * 2
META = "openstack/latest/meta_data.json"
RSA = "ssh-rsa AAAAB3NzaC1yc2E= root@example"
ED25519 = 'no-pty,command="echo #1" ssh-ed25519 AAAAC3NzaC1lZDI1 Jörgs Schlüssel # home'


def tree_of(**fields) -> dict[str, bytes]:
    return build_tree(DriveContent(instance_uuid="b7f1", random_seed=SEED, **fields))


def meta_of(**fields) -> dict:
    return json.loads(tree_of(**fields)[META])


def test_an_empty_content_still_has_what_every_reader_demands():
    tree = tree_of()
    assert list(tree) == [META]
    meta = json.loads(tree[META])
    assert meta == {
        "uuid": "b7f1",
        "availability_zone": "nova",
        "launch_index": 0,
        "meta": {},
        "random_seed": base64.b64encode(SEED).decode(),
    }


def test_the_host_name_is_also_the_name():
    meta = meta_of(hostname="db1.example.net")
    assert meta["hostname"] == meta["name"] == "db1.example.net"


@pytest.mark.parametrize("hostname", [None, ""])
def test_without_a_host_name_the_image_keeps_its_own(hostname):
    assert meta_of(hostname=hostname).keys().isdisjoint({"hostname", "name"})


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\n\n \t\n", "\n# comment\n"])
def test_several_keys_are_told_apart_by_distinct_names(line_end):
    meta = meta_of(ssh_keys=f"# mine{line_end}{RSA}{line_end}  {ED25519}  {line_end}")
    assert meta["public_keys"] == {"key-1": RSA, "key-2": ED25519}
    assert meta["keys"] == [
        {"name": "key-1", "type": "ssh", "data": RSA},
        {"name": "key-2", "type": "ssh", "data": ED25519},
    ]


@pytest.mark.parametrize("ssh_keys", [None, "", "\r\n", "# only a comment\n"])
def test_without_keys_there_is_no_empty_key(ssh_keys):
    assert meta_of(ssh_keys=ssh_keys).keys().isdisjoint({"public_keys", "keys"})


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))))
def test_no_key_line_is_lost_or_altered_but_for_its_margins(lines):
    wanted = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    assert public_keys("\r\n".join(lines)) == wanted
    assert list(meta_of(ssh_keys="\n".join(lines)).get("public_keys", {}).values()) == wanted


@given(st.binary())
def test_user_data_is_stored_byte_for_byte(user_data):
    assert tree_of(user_data=user_data)["openstack/latest/user_data"] == user_data


def test_user_data_that_looks_like_base64_is_not_decoded():
    user_data = base64.b64encode(b"#!/bin/sh\n")
    assert tree_of(user_data=user_data)["openstack/latest/user_data"] == user_data


def test_user_metadata_are_strings_and_a_null_is_an_empty_one():
    assert meta_of(metadata={"role": "db", "admin_pass": None, "n": ""})["meta"] == {
        "role": "db",
        "admin_pass": "",
        "n": "",
    }


@pytest.mark.parametrize("vendor_data", [{"cloud-init": "#cloud-config\n{}\n"}, ["a"], "#cloud-config\n", {}])
def test_vendor_data_is_written_as_the_json_value_it_is(vendor_data):
    tree = tree_of(vendor_data=vendor_data)
    assert json.loads(tree["openstack/latest/vendor_data.json"]) == vendor_data


def test_network_data_is_written_as_json():
    network_data = {"links": [{"id": "eth0", "type": "phy", "mtu": None}], "networks": [], "services": []}
    tree = tree_of(network_data=network_data)
    assert json.loads(tree["openstack/latest/network_data.json"]) == network_data


def test_documents_are_ascii_so_that_no_character_can_break_a_reader():
    meta = meta_of(metadata={"greeting": "Grüße \ud800 😀"})
    assert meta["meta"]["greeting"] == "Grüße \ud800 😀"
    assert tree_of(metadata={"greeting": "Grüße \ud800"})[META].isascii()


def test_a_drive_of_exactly_the_bound_is_made_and_one_byte_more_is_refused():
    room = MAX_CONTENT - len(tree_of()[META])
    assert sum(map(len, tree_of(user_data=bytes(room)).values())) == 16 * MiB
    with pytest.raises(ConfigDriveCreate) as caught:
        tree_of(user_data=bytes(room + 1))
    assert caught.value.message == "Could not create configdrive on disk."
    assert str(16 * MiB + 1) in caught.value.detail
    assert str(16 * MiB) in caught.value.detail


@pytest.mark.parametrize("value", [{"mtu": float("nan")}, {"mtu": object()}, float("inf")])
def test_a_value_that_is_no_json_is_refused_by_name(value):
    with pytest.raises(ConfigDriveCreate, match="networkData"):
        tree_of(network_data=value)


def test_a_short_random_seed_is_a_fault_of_the_caller():
    with pytest.raises(ValueError, match="511 bytes, expected 512"):
        build_tree(DriveContent(instance_uuid="b7f1", random_seed=SEED[:511]))


def test_the_representation_tells_no_secret():
    content = DriveContent(
        hostname="db1",
        ssh_keys="s3cret",
        user_data=b"s3cret",
        vendor_data="s3cret",
        network_data={"s3cret": 1},
        metadata={"s3cret": "s3cret"},
        instance_uuid="b7f1",
        random_seed=SEED,
    )
    assert repr(content) == "DriveContent(hostname='db1', instance_uuid='b7f1')"


def test_directories_come_before_what_they_hold():
    assert [str(d) for d in directories({"a/b/c": b"", "a/d": b"", "e": b"", "z/f": b""})] == [
        "a",
        "z",
        "a/b",
    ]
