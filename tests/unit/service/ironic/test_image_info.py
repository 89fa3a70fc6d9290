"""Of the arguments of `write_image` comes the job that somebody would have posted."""

import pytest

from agent.errors import JobInvalid
from agent.service.ironic.image_info import error_members, job_document

URL = "http://images.example.net/debian.qcow2"
SHA256 = "0" * 64
NODE = {"uuid": "U"}


def made(node=NODE, configdrive=None, **image):
    image = {"urls": [URL], "disk_format": "qcow2", "os_hash_algo": "sha256", "os_hash_value": SHA256} | image
    document = job_document({"image_info": image, "configdrive": configdrive}, node)
    assert document.pop("description") == "Ironic node U"
    return document


def test_an_image_with_its_checksum():
    assert made() == {"URL": URL, "type": "qcow2", "checkSum": SHA256, "checkSumType": "sha256"}


@pytest.mark.parametrize(("told", "taken"), [("raw", "raw"), ("gpt", "raw"), ("vhd", "vhd"), (None, None)])
def test_the_format(told, taken):
    assert made(disk_format=told).get("type") == taken


def test_other_urls_are_mirrors():
    assert made(urls=[URL, "http://b/x"])["mirrors"] == ["http://b/x"]


@pytest.mark.parametrize(
    ("checksum", "kind"),
    [
        ("0" * 32, "md5"),
        ("0" * 64, "sha256"),
        ("0" * 128, "sha512"),
        ("http://h/SHA512SUMS", "sha512"),
        ("http://h/CHECKSUM", "sha256"),
        ("http://h/image.md5sum", "md5"),
    ],
)
def test_a_checksum_alone_is_of_the_kind_that_it_looks_like(checksum, kind):
    document = made(os_hash_algo=None, os_hash_value=None, checksum=checksum)
    assert (document["checkSum"], document["checkSumType"]) == (checksum, kind)


def test_no_checksum_at_all():
    assert "checkSum" not in made(os_hash_algo=None, os_hash_value=None)


def test_a_config_drive_is_handed_on_as_it_is():
    assert made(configdrive="H4sI")["configdrive"] == {"enable": True, "content": "H4sI"}
    assert "configdrive" not in made()


def test_the_hints_of_the_instance_come_before_those_of_the_node():
    node = NODE | {"properties": {"root_device": {"serial": "s== a"}}}
    assert made(node)["disk"] == {"serial": "s== a", "any": True}
    assert made(node | {"instance_info": {"root_device": {"wwn": "b"}}})["disk"] == {"wwn": "b", "any": True}
    assert made(node | {"instance_info": {"root_device": "wwn=b"}})["disk"] == "wwn=b"


def test_the_loader_that_the_operator_names():
    path = r"\EFI\debian\grubx64.efi"
    assert made(NODE | {"instance_info": {"efi_bootloader_path": path}})["efiBootloaderPath"] == path


def test_credentials_of_the_image_server_become_a_header():
    headers = made(image_server_user="u", image_server_password="p")["httpHeader"]
    assert headers == [{"key": "Authorization", "value": "Basic dTpw"}]


def test_a_header_that_the_node_brings_comes_before_credentials():
    headers = made(
        image_server_user="u", image_server_password="p", image_request_authorization="QmVhcmVyIHg="
    )["httpHeader"]
    assert headers == [{"key": "Authorization", "value": "Bearer x"}]


@pytest.mark.parametrize(
    "image",
    [
        {"image_server_user": "u"},
        {"image_server_user": 1, "image_server_password": "p"},
        {"image_server_user": "secret\ud800", "image_server_password": "p"},
        {"image_server_auth_strategy": "secret", "image_server_user": "u", "image_server_password": "p"},
        {"image_request_authorization": "secret!"},
        {"image_request_authorization": ["secret"]},
        {"image_request_authorization": "/w=="},
        {"proxies": {"http": "http://secret:3128"}},
    ],
)
def test_what_it_cannot_do_for_the_image_server_is_said_without_the_secret(image):
    with pytest.raises(JobInvalid, match="image_info") as caught:
        made(**image)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("image", [{"image_type": "partition"}, {"root_mb": 1024}])
def test_a_partition_image_is_refused(image):
    with pytest.raises(JobInvalid, match="whole disks only"):
        made(**image)


@pytest.mark.parametrize("args", [{}, {"image_info": "x"}, {"image_info": {}}, {"image_info": {"urls": []}}])
def test_no_image(args):
    with pytest.raises(JobInvalid, match="image_info"):
        job_document(args, NODE)


def test_the_operator_is_told_message_object_and_way_out():
    error = error_members("disk.selector", "No disk fits.", "/dev/sda: serial", "Mend the hints.")
    assert error["details"] == "No disk fits. (/dev/sda: serial) Mend the hints."
    assert error["message"] == "No disk fits."
