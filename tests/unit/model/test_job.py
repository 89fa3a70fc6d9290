import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import JobInvalid
from agent.model.job import MAX_LIST, load_job, parse_job, read_json

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


def test_null_means_absent_everywhere():
    keys = (
        "checkSum",
        "checkSumType",
        "configdrive",
        "description",
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
            "type": "vhd",
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


def test_text_that_is_no_json_is_told_with_its_place():
    for text, words in [
        ("{", "line 1 column 2"),
        ('{"URL": NaN}', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        ("[" * 100_000, "nested more than 64"),
        ("[]", "must be a JSON object"),
        ('{"URL": "a", "URL": "b"}', "given twice"),
        ("9" * 5000, "not JSON"),
    ]:
        with pytest.raises(JobInvalid, match=words):
            load_job(text)


def nested(depth):
    return json.loads('{"a":' * depth + "1" + "}" * depth)


def test_what_is_nested_too_deep_is_refused_and_named():
    for depth in (64, 900):
        text = json.dumps(job(configdrive={"enable": True, "networkData": nested(depth)}))
        with pytest.raises(JobInvalid, match="nested more than 64 levels deep"):
            load_job(text)
    assert read_json(json.dumps(nested(64))) == nested(64)
    with pytest.raises(JobInvalid, match="nested more than 64 levels deep"):
        read_json(json.dumps([nested(64)]))
    for key in ("networkData", "vendorData"):
        assert faults(job(configdrive={key: nested(64)})) == {
            f"configdrive.{key}": "is nested more than 62 levels deep"
        }
        assert parse_job(job(configdrive={key: nested(62)}))


@pytest.mark.parametrize(
    "text", ['{"id": "1", "id": "2"}', '{"id": Infinity}', '{"id": "1"', b"\xff", "[" * 90_000]
)
def test_any_json_from_outside_is_read_as_strictly_as_a_job(text):
    with pytest.raises(JobInvalid):
        read_json(text)


def test_many_keys_given_twice_take_no_longer_than_others():
    text = "{" + ",".join(f'"{number % 50_000}": 1' for number in range(100_000)) + "}"
    with pytest.raises(JobInvalid) as caught:
        read_json(text)
    assert len(caught.value.faults) == MAX_LIST


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
    texts = (json.dumps(parsed.redacted()), json.dumps(parsed.spent()), repr(parsed), str(parsed))
    for text in texts:
        assert not [secret for secret in [*secrets, KEY] if secret in text]
    assert parsed.redacted()["httpHeader"] == [{"key": "Authorization", "value": "***"}]
    spent = parse_job(parsed.spent())
    assert spent.spent() == parsed.spent()
    assert (spent.type, spent.configdrive.enable, spent.url) == ("raw", True, "https://h.example/i.raw")


def test_a_spent_job_is_read_again_where_hiding_made_its_url_longer():
    url = "https://h.example/i?" + "&".join("a=1" for _ in range(2000))
    assert len(parse_job(job(URL=url)).redacted()["URL"]) > 8192
    assert parse_job(parse_job(job(URL=url)).spent()).url == "https://h.example/i"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4)
    ),
    max_leaves=10,
)


# How long it takes to draw a document depends on what else the machine does.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["URL", "type", "checkSum", "httpHeader", "configdrive", "x"]), json_values
    )
)
def test_any_document_is_read_or_refused_never_a_crash(document):
    with suppress(JobInvalid):
        assert parse_job(document).type in {"raw", "qcow2", "ova"}
