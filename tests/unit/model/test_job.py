import json
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ImageFormat, JobInvalid
from agent.formats.advice import hint_for
from agent.model.job import IMAGE_TYPES, OVH_TYPES, parse_job
from agent.model.job_text import MAX_FAULTS
from agent.model.object_reader import MAX_DATA_BYTES, MAX_LIST

SHA256 = "ab" * 32
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ5b2ktYWdlbnQtdGVzdC1rZXk user@host"


def job(**members):
    return {"URL": "https://images.example.net/a.raw", "type": "raw"} | members


def faults(document):
    with pytest.raises(JobInvalid) as caught:
        parse_job(document)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_a_full_job_is_read():
    parsed = parse_job(
        job(
            checkSum=SHA256.upper(),
            checkSumType="sha256",
            description="web",
            diskGroupId=2,
            efiBootloaderPath="\\EFI\\debian\\grubx64.efi",
            httpHeader=[{"key": "Authorization", "value": "Bearer T"}, {"key": "X-Empty", "value": None}],
            configdrive={
                "enable": True,
                "hostname": "web1.example.net",
                "sshKey": f"{KEY}\n# comment\n\n{KEY}",
                "userData": "#!/bin/sh\r\necho \\n\n",
                "userMetadatas": [{"key": "role", "value": "web"}, {"key": "none", "value": None}],
                "networkData": {"links": []},
                "vendorData": "#cloud-config\n",
            },
        )
    )
    assert parsed.checksum == SHA256
    assert parsed.disk_group_id == 2
    assert [(header.key, header.value) for header in parsed.http_headers] == [
        ("Authorization", "Bearer T"),
        ("X-Empty", None),
    ]
    assert parsed.configdrive.user_data == "#!/bin/sh\r\necho \\n\n"
    assert parsed.configdrive.enable


def test_a_selector_is_read_and_shown_as_it_was_posted():
    posted = {"serial": "s== Z1", "size": 480, "rotational": "no", "any": True}
    parsed = parse_job(job(disk=posted | {"wwn": None}))
    assert str(parsed.disk_selector) == "serial s== Z1, size 480, rotational false, any"
    assert parsed.redacted()["disk"] == parsed.without_secrets()["disk"] == posted
    assert parse_job(parsed.without_secrets()).disk_selector == parsed.disk_selector
    assert parsed.summary()["disk"] == str(parsed.disk_selector)


def test_a_disk_is_chosen_in_one_way():
    found = faults(job(diskGroupId=0, disk={"serial": "Z1", "size": "big"}))
    assert found["disk"] == "stands beside diskGroupId; give one of them"
    assert set(found) == {"disk", "disk.size"}


MDADM = "3f1c6f0e:6b1f4d0e:9a523d0f:3b7f7a11"


@pytest.mark.parametrize("name", [MDADM, MDADM.replace(":", ""), "3f1c6f0e-6b1f-4d0e-9a52-3d0f3b7f7a11"])
def test_a_mirror_is_read_with_its_uuid_as_anybody_writes_it(name):
    parsed = parse_job(job(raid={"level": "raid1", "uuid": name}))
    assert (parsed.disk_count, parsed.raid.uuid.hex) == (2, MDADM.replace(":", ""))
    again = parse_job(parsed.without_secrets())
    assert (again.raid, again.disk_count) == (parsed.raid, 2)


def test_several_disks_are_counted_and_one_is_the_default():
    assert [parse_job(job(disks=count)).disk_count for count in (None, 1, 16)] == [1, 1, 16]
    assert parse_job(parse_job(job(disks=3)).redacted()).disk_count == 3


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"disks": 0}, "disks"),
        ({"disks": 17}, "disks"),
        ({"disks": 2, "raid": {"level": "raid1"}}, "disks"),
        ({"raid": {}}, "raid.level"),
        ({"raid": {"level": "raid0"}}, "raid.level"),
        ({"raid": {"level": "raid1", "disks": 3}}, "raid.disks"),
        ({"raid": {"level": "raid1", "uuid": "3f1c6f0e:6b1f"}}, "raid.uuid"),
        ({"raid": {"level": "raid1", "name": "root"}}, "raid.name"),
    ],
)
def test_a_fault_of_several_disks_names_its_member(members, path):
    assert list(faults(job(**members))) == [path]


def test_null_means_absent_everywhere():
    keys = (
        "checkSum",
        "checkSumType",
        "configdrive",
        "description",
        "disk",
        "diskGroupId",
        "efiBootloaderPath",
        "httpHeader",
    )
    assert parse_job(job(**dict.fromkeys(keys))) == parse_job(job())
    drive = ("enable", "hostname", "sshKey", "userData", "userMetadatas", "networkData", "vendorData")
    assert parse_job(job(configdrive=dict.fromkeys(drive))) == parse_job(job())


def test_all_faults_are_listed_together_each_with_its_path():
    found = faults(
        {
            "URL": "ftp://h/x",
            "type": "qed",
            "checkSum": "12",
            "nonsense": 1,
            "diskGroupId": -1,
            "httpHeader": [
                {"key": "bad name", "value": "x"},
                {"key": "Range", "value": "bytes=0-"},
                {"value": "v"},
            ],
            "configdrive": {"hostname": "-x", "sshKey": "hello", "enable": "yes", "typo": None},
        }
    )
    assert set(found) == {
        "URL",
        "type",
        "checkSumType",
        "nonsense",
        "diskGroupId",
        "httpHeader[0].key",
        "httpHeader[1].key",
        "httpHeader[2].key",
        "configdrive.hostname",
        "configdrive.sshKey",
        "configdrive.enable",
        "configdrive.typo",
    }
    assert found["type"] == "Bad format image, expected: qcow2, raw, ova."
    assert found["checkSumType"] == "Please provide checkSum AND checkSumType or none of them"


def test_the_types_of_images_are_those_that_errors_and_hints_name():
    assert OVH_TYPES == ("qcow2", "raw", "ova")
    assert ImageFormat().message == f"Bad format image, expected: {', '.join(OVH_TYPES)}."
    for name in set(IMAGE_TYPES) - set(OVH_TYPES):
        assert re.search(rf"\b{name}\b", ImageFormat().hint)
    for name in IMAGE_TYPES:
        assert f"Set type to {name}," in hint_for(name)


def test_an_unknown_type_is_answered_as_the_ovh_api_does_and_the_hint_has_our_types():
    with pytest.raises(JobInvalid) as caught:
        parse_job(job(type="qed"))
    assert (caught.value.code, caught.value.message) == ("image.format", ImageFormat.template)
    assert caught.value.hint == ImageFormat.default_hint


@pytest.mark.parametrize("kind", IMAGE_TYPES)
def test_a_job_of_a_type_is_of_that_type_whatever_is_found(kind):
    assert {parse_job(job(type=kind)).type_for(found) for found in ("raw", "qcow2", "html", "")} == {kind}


@pytest.mark.parametrize("absent", [{}, {"type": None}])
def test_without_a_type_the_content_decides(absent):
    parsed = parse_job({"URL": "https://images.example.net/a"} | absent)
    assert parsed.type is None
    assert "type" not in parsed.redacted()
    assert [parsed.type_for(name) for name in IMAGE_TYPES] == list(IMAGE_TYPES)
    # What is no type of an image is compared with a disk as it is, and refused by that name.
    assert [parsed.type_for(found) for found in ("html", "ext4", "tar", "")] == ["raw"] * 4
    assert parse_job(parsed.without_secrets()).type is None


@pytest.mark.parametrize(
    ("members", "path", "words"),
    [
        ({"URL": None}, "URL", "is required"),
        ({"URL": ""}, "URL", "must not be empty"),
        ({"URL": 5}, "URL", "must be a string"),
        (
            {"checkSum": SHA256, "checkSumType": "crc32"},
            "checkSumType",
            "Bad checkSumType, expected: md5, sha1,",
        ),
        ({"checkSum": SHA256, "checkSumType": "sha1"}, "checkSum", "must be 40 hexadecimal digits for sha1"),
        ({"checkSum": "zz" * 32, "checkSumType": "sha256"}, "checkSum", "must be 64 hexadecimal digits"),
        ({"checkSumType": "sha256"}, "checkSum", "Please provide checkSum AND checkSumType"),
        ({"diskGroupId": True}, "diskGroupId", "must be an integer"),
        ({"diskGroupId": 1.0}, "diskGroupId", "must be an integer"),
        ({"httpHeader": {"a": "b"}}, "httpHeader", "must be an array"),
        ({"httpHeader": [{"key": "X", "value": "a\r\nb"}]}, "httpHeader[0].value", "control character"),
        ({"httpHeader": ["X: y"]}, "httpHeader[0]", "must be an object"),
        ({"configdrive": []}, "configdrive", "must be an object"),
        ({"configdrive": {"hostname": "a" * 64}}, "configdrive.hostname", "is not a host name"),
        ({"configdrive": {"userData": "\ud800"}}, "configdrive.userData", "surrogate"),
        ({"configdrive": {"userData": "x" * (8 * 1024**2 + 1)}}, "configdrive.userData", "at most 8.0 MiB"),
        (
            {"configdrive": {"sshKey": f"{KEY}\nnonsense"}},
            "configdrive.sshKey",
            "line 2 is not an SSH public key",
        ),
        (
            {"configdrive": {"sshKey": "-----BEGIN OPENSSH PRIVATE KEY-----"}},
            "configdrive.sshKey",
            "holds a private key",
        ),
        (
            {"configdrive": {"userMetadatas": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}},
            "configdrive.userMetadatas[1].key",
            "given twice",
        ),
        ({"configdrive": {"networkData": "links"}}, "configdrive.networkData", "must be an object"),
        ({"efiBootloaderPath": "/EFI/../x"}, "efiBootloaderPath", "is not a path on the ESP"),
        ({"efiBootloaderPath": "EFI/BOOT"}, "efiBootloaderPath", "is not a path on the ESP"),
    ],
)
def test_each_fault_names_its_member(members, path, words):
    found = faults(job(**members))
    assert list(found) == [path]
    assert words in found[path]


def test_the_private_key_itself_is_not_in_the_fault():
    secret = "-----BEGIN RSA PRIVATE KEY-----\nMIIEsecret"
    assert "secret" not in str(faults(job(configdrive={"sshKey": secret})))


@pytest.mark.parametrize("key", ["networkData", "vendorData"])
def test_data_for_the_guest_are_bounded_as_they_are_written(key):
    longest = {"a": "x" * (MAX_DATA_BYTES - len('{"a": ""}'))}
    assert parse_job(job(configdrive={key: longest}))
    for longer in ({"a": longest["a"] + "x"}, {"a": "\u20ac" * (MAX_DATA_BYTES // 6)}):
        assert faults(job(configdrive={key: longer})) == {
            f"configdrive.{key}": "has 1.0 MiB, at most 1.0 MiB are taken"
        }


def test_vendor_data_that_are_a_text_are_bounded_too():
    assert "configdrive.vendorData" in faults(job(configdrive={"vendorData": "x" * MAX_DATA_BYTES}))


def test_no_more_faults_are_told_than_somebody_reads_and_no_key_of_any_length():
    found = faults(job(**{f"{'k' * 5000}{number}": 1 for number in range(3 * MAX_FAULTS)}, type="qed"))
    assert "type" in found
    assert max(map(len, found)) < 100
    with pytest.raises(JobInvalid) as caught:
        parse_job(dict.fromkeys(map(str, range(3 * MAX_FAULTS))))
    assert len(caught.value.faults) == MAX_FAULTS


def test_a_job_of_any_size_has_a_short_summary_for_the_log():
    long = "\U0001f600" * 500
    pairs = [{"key": f"{number:0>1000}", "value": "v"} for number in range(MAX_LIST)]
    big = job(
        URL=f"https://images.example.net/{long}",
        description="\U0001f600" * 4000,
        httpHeader=pairs,
        configdrive={"hostname": "web1", "userMetadatas": pairs},
    )
    summary = parse_job(big).summary()
    assert len(json.dumps(summary)) < 16 * 1024
    assert summary["httpHeader"] == summary["configdrive"]["userMetadatas"] == MAX_LIST
    assert summary["configdrive"]["hostname"] == "web1"
    assert parse_job(job(description="web")).summary() == parse_job(job(description="web")).redacted()


def test_no_secret_is_in_the_redacted_job_or_any_repr():
    secrets = [
        "HEADERSECRET",
        "USERDATASECRET",
        "METASECRET",
        "QUERYSECRET",
        "NETSECRET",
        "VENDORSECRET",
        "PWSECRET",
    ]
    parsed = parse_job(
        job(
            URL="https://user:PWSECRET@h.example/i.raw?sig=QUERYSECRET",
            httpHeader=[{"key": "Authorization", "value": "HEADERSECRET"}],
            configdrive={
                "enable": True,
                "sshKey": KEY,
                "userData": "USERDATASECRET",
                "userMetadatas": [{"key": "k", "value": "METASECRET"}],
                "networkData": {"x": "NETSECRET"},
                "vendorData": "VENDORSECRET",
            },
        )
    )
    texts = (json.dumps(parsed.redacted()), json.dumps(parsed.without_secrets()), repr(parsed), str(parsed))
    for text in texts:
        assert not [secret for secret in [*secrets, KEY] if secret in text]
    assert parsed.redacted()["httpHeader"] == [{"key": "Authorization", "value": "***"}]
    kept = parse_job(parsed.without_secrets())
    assert kept.without_secrets() == parsed.without_secrets()
    assert (kept.type, kept.configdrive.enable, kept.url) == ("raw", True, "https://h.example/i.raw")


def test_a_spent_job_is_read_again_where_hiding_made_its_url_longer():
    url = "https://h.example/i?" + "&".join("a=1" for _ in range(2000))
    assert len(parse_job(job(URL=url)).redacted()["URL"]) > 8192
    assert parse_job(parse_job(job(URL=url)).without_secrets()).url == "https://h.example/i"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4)
    ),
    max_leaves=10,
)


# How long it takes to draw a document depends on what else the machine does.
@given(
    st.dictionaries(
        st.sampled_from(["URL", "type", "checkSum", "httpHeader", "configdrive", "x"]), json_values
    )
)
def test_any_document_is_read_or_refused_never_a_crash(document):
    with suppress(JobInvalid):
        assert parse_job(document).type in {None, *IMAGE_TYPES}


def test_what_names_other_files_has_no_secret_either():
    parsed = parse_job(
        job(
            checkSum="https://u:PWSECRET@h/SUMS?sig=QUERYSECRET",
            checkSumType="sha256",
            mirrors=["https://u:PWSECRET@m/i?sig=QUERYSECRET", "http://n/i?QUERYSECRET"],
            configdrive={"enable": True, "content": "RFJJVkVTRUNSRVQ="},
        )
    )
    elsewhere = parse_job(
        job(configdrive={"enable": True, "content": "https://u:PWSECRET@h/d?sig=QUERYSECRET"})
    )
    for one in (parsed, elsewhere):
        for document in (one.redacted(), one.without_secrets(), one.summary(), repr(one)):
            text = json.dumps(document)
            assert not [secret for secret in ("PWSECRET", "QUERYSECRET", "RFJJVkVTRUNSRVQ") if secret in text]
        assert parse_job(one.without_secrets()).without_secrets() == one.without_secrets()
    assert parsed.redacted()["mirrors"] == ["https://m/i?sig=***", "http://n/i?***"]
    assert parsed.redacted()["configdrive"]["content"] == "***"
    assert elsewhere.without_secrets()["configdrive"] == {"enable": True, "content": "https://h/d"}
    assert parsed.configdrive.inline_content() == b"DRIVESECRET"


def test_a_job_with_many_long_urls_has_a_short_summary():
    long = "https://h/" + "a" * 8000
    drive = {"enable": True, "content": long}
    big = parse_job(job(URL=long, checkSum=long, checkSumType="md5", mirrors=[long] * 16, configdrive=drive))
    assert len(json.dumps(big.summary())) < 16 * 1024
    assert big.summary()["mirrors"] == 16


@pytest.mark.parametrize(
    ("enable", "written"), [({}, True), ({"enable": True}, True), ({"enable": False}, False)]
)
def test_a_ready_made_drive_is_written_unless_that_is_refused(enable, written):
    parsed = parse_job(job(configdrive={"content": "RFJJVkU="} | enable))
    assert parsed.configdrive.enable is written
    assert parse_job(job(configdrive={"hostname": "h1"})).configdrive.enable is False


def test_a_drive_that_is_no_base64_has_the_code_of_drives():
    with pytest.raises(JobInvalid) as caught:
        parse_job(job(configdrive={"enable": True, "content": "hello world"}))
    error = caught.value
    assert (error.code, error.blame) == ("configdrive.content", "request")
    assert (
        error.message
        == "The ready-made config drive cannot be used: it is neither base64 nor the URL of one."
    )
    assert "config-2" in error.hint
