"""The TOML file and the rules between options."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import Blame, ConfigInvalid, Fault
from agent.model.disks import GroupSpec, configured_groups
from agent.model.policy import Policy, SeveralPolicy
from agent.service.config.model import (
    ApiConfig,
    Config,
    ControlPlaneConfig,
    DownloadConfig,
    LogConfig,
    RebootConfig,
    StateConfig,
    TrustConfig,
    load_config,
    load_remains,
)
from agent.service.config.options import GROUP_TABLE, TABLE
from agent.service.config.sources import MAX_FILE_BYTES, Settings, take_document

NAME = 'service_name = "ns1.example.net"\n'
FULL = """
service_name = "ns1.example.net"

[api]
socket = "/run/byoi/api.sock"
socket_group = "byoi"
listen = "[::]:9443"
tls_cert = "/etc/byoi-agent/tls.crt"
tls_key = "/etc/byoi-agent/tls.key"
client_ca = "/etc/byoi-agent/clients.crt"

[control_plane]
url = "https://control.example.net/byoi/"
ca_file = "/etc/byoi-agent/control-ca.crt"
poll_seconds = 2.5
push_seconds = 1

[[disk_group]]
id = 2
disks = ["/dev/disk/by-id/wwn-2"]

[[disk_group]]
id = 1
disks = ["/dev/disk/by-id/wwn-1", "/srv/trial.img"]

[policy]
require_checksum = true
allow_http = false
allow_file = true
several.allow_failed = true

[trust]
keys = "/srv/keys"
require_signature = true

[download]
ca_file = "/etc/byoi-agent/image-ca.crt"
connections = 3

[reboot]
enabled = false
command = ["sh", "-c", "sync; reboot -f"]
grace_seconds = 0

[state]
directory = "/var/lib/byoi-agent"

[log]
level = "debug"
format = "json"
"""


def required(file):
    boot = "boot with byoi.service_name=NAME on the kernel command line"
    return f"is required: set it in {file}, or {boot}"


def test_a_name_is_enough_and_the_rest_has_the_documented_defaults(load):
    config = load(NAME)
    assert config == Config("ns1.example.net", origins=config.origins)
    assert config.api == ApiConfig(socket="/run/byoi-agent/api.sock")
    assert config.control_plane is None
    assert config.policy == Policy(require_checksum=False, allow_http=True)
    assert config.reboot == RebootConfig(enabled=True, command=("systemctl", "reboot"), grace_seconds=60.0)
    assert (config.state, config.log) == (StateConfig("/run/byoi-agent"), LogConfig("info", "auto"))


def test_every_option_is_read(load):
    config = load(FULL)
    assert config == Config(
        service_name="ns1.example.net",
        api=ApiConfig(
            socket="/run/byoi/api.sock",
            socket_group="byoi",
            listen=("::", 9443),
            tls_cert="/etc/byoi-agent/tls.crt",
            tls_key="/etc/byoi-agent/tls.key",
            client_ca="/etc/byoi-agent/clients.crt",
        ),
        control_plane=ControlPlaneConfig(
            "https://control.example.net/byoi",
            ca_file="/etc/byoi-agent/control-ca.crt",
            poll_seconds=2.5,
            push_seconds=1.0,
        ),
        disk_groups=(
            GroupSpec(1, ("/dev/disk/by-id/wwn-1", "/srv/trial.img")),
            GroupSpec(2, ("/dev/disk/by-id/wwn-2",)),
        ),
        policy=Policy(
            require_checksum=True,
            allow_http=False,
            allow_file=True,
            require_signature=True,
            several=SeveralPolicy(allow_failed=True),
        ),
        trust=TrustConfig("/srv/keys", require_signature=True),
        download=DownloadConfig("/etc/byoi-agent/image-ca.crt", 3),
        reboot=RebootConfig(enabled=False, command=("sh", "-c", "sync; reboot -f"), grace_seconds=0.0),
        state=StateConfig("/var/lib/byoi-agent"),
        log=LogConfig("debug", "json"),
        origins=config.origins,
    )
    assert configured_groups(config.disk_groups, {})


def test_every_value_tells_where_it_came_from(load, tmp_path):
    config = load(NAME + '[log]\nlevel = "debug"', cmdline="byoi.log.format=text byoi.disk_group.3=/dev/sdc")
    assert config.origins["service_name"] == str(tmp_path / "agent.toml")
    assert config.origins["log.level"] == str(tmp_path / "agent.toml")
    assert config.origins["log.format"] == "kernel command line"
    assert config.origins["disk_group.3"] == "kernel command line"
    assert config.origins["reboot.enabled"] == "default"


def test_all_faults_are_told_at_once_with_key_place_and_way_out(faults, tmp_path):
    found = faults(
        'service_nam = "ns1"\nlog.level = "loud"\n[api]\nsocket = "api.sock"\n[reboot]\nenabled = "yes"\n',
        cmdline="byoi.reboot.grace_seconds=-1",
    )
    file = f"(given in: {tmp_path / 'agent.toml'})"
    assert found == [
        ("service_nam", f"is an unknown option; did you mean service_name? {file}"),
        ("log.level", f"must be one of debug, info, warning, error {file}"),
        ("api.socket", f"must be an absolute path {file}"),
        ("reboot.enabled", f"must be true or false, not a string {file}"),
        (
            "reboot.grace_seconds",
            "must be a number of seconds from 0 to 86400 (given in: kernel command line)",
        ),
        (
            "service_name",
            required(tmp_path / "agent.toml"),
        ),
    ]


def test_the_error_is_of_the_family_and_lists_the_faults(load):
    with pytest.raises(ConfigInvalid) as caught:
        load("a = 1\nb = 2\n")
    document = caught.value.document()
    assert (document["code"], caught.value.blame) == ("config.invalid", Blame.AGENT)
    assert [fault["path"] for fault in document["faults"]] == ["a", "b", "service_name"]
    assert "--check" in document["hint"]
    assert all(f"{key}: " in str(caught.value) for key in ("a", "b", "service_name"))


# -- the file -------------------------------------------------------------------------------------------------


def test_the_default_file_may_be_absent_where_the_kernel_names_the_server(load, faults, tmp_path):
    assert load(cmdline="quiet byoi.service_name=ns2").service_name == "ns2"
    assert faults() == [
        (
            "service_name",
            required(tmp_path / "absent.toml"),
        )
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"service_name = \n", "is not TOML: Invalid value (at line 1, column 16)"),
        (b'service_name = "a"\nservice_name = "b"\n', "is not TOML: Cannot overwrite a value"),
        (b"[api]\n[api]\n", "is not TOML: Cannot declare ('api',) twice"),
        (b'service_name = "a\0b"\n', "is not TOML: Illegal character"),
        (b'a = "ok"\nb = "\xff"\n', "is not UTF-8 (line 2)"),
        (b"\x7fELF\xfe\xff" + bytes(1000), "is not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), "is larger than 65536 bytes"),
        (b"a." * 5000 + b"a = 1", "has a line of more than 4096 bytes"),
        (b"a = " + b"[" * 4000, "is not TOML: it holds arrays or tables nested too deeply"),
        (b"a = 2026-13-45\n", "is not TOML: "),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_one_fault(faults, tmp_path, content, message):
    [(key, text)] = faults(content)
    assert key == ""
    assert text.startswith(f"{tmp_path / 'agent.toml'} {message}")


def test_the_file_must_be_a_regular_one_that_exists(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, message in (
        ("absent", "does not exist"),
        ("fifo", "is not a regular file"),
        (".", "Is a directory"),
        ("a\0b", "embedded null"),  # "byte", since Python 3.14 "character in path"
    ):
        with pytest.raises(ConfigInvalid, match=message) as caught:
            load_config(str(tmp_path / name), cmdline="byoi.service_name=ns1", credentials=None)
        assert len(caught.value.faults) == 1


def test_a_file_that_every_user_can_write_is_refused(load, tmp_path):
    load(NAME)
    (tmp_path / "agent.toml").chmod(0o646)
    with pytest.raises(ConfigInvalid, match="chmod go-w"):
        load_config(str(tmp_path / "agent.toml"), cmdline="", credentials=None)


WRONG = (
    True,
    3,
    -1.5,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "a\nb",
    "\udcff",
    "x" * 5000,
    [],
    [1],
    [[]],
    {},
    {"a": 1},
)


def wrong_for(option):
    fitting = {"boolean": (True,), "boolean or http": (True,), "seconds": (3,), "integer": (3,)}.get(
        option.kind.name, ()
    )
    return [value for value in WRONG if not any(value is fit for fit in fitting)]


@pytest.mark.parametrize("option", TABLE, ids=lambda option: option.key)
def test_a_value_of_a_wrong_type_is_one_fault_under_its_key(option):
    for value in wrong_for(option):
        settings = Settings()
        document = {option.name: value}
        for part in reversed(option.section.split(".") if option.section else []):
            document = {part: document}
        take_document(settings, document, "FILE")
        assert [fault.path for fault in settings.faults] == [option.key], value
        assert settings.faults[0].message.endswith(" (given in: FILE)")


@pytest.mark.parametrize("option", GROUP_TABLE, ids=lambda option: option.key)
def test_a_disk_group_with_a_wrong_value_is_one_fault_and_no_group(option):
    for value in wrong_for(option):
        settings = Settings()
        group = {"id": 1, "disks": ["/dev/sda"]} | {option.name: value}
        take_document(settings, {"disk_group": [group]}, "FILE")
        assert [fault.path for fault in settings.faults] == [f"disk_group[0].{option.name}"], value
        assert settings.groups == {}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [*{option.key.split(".")[0] for option in TABLE}, "disk_group", "ovh", "url", "id", "disks"]
)


@given(st.dictionaries(KEYS | st.text(max_size=5), VALUES | st.dictionaries(KEYS, VALUES) | st.lists(VALUES)))
def test_no_document_raises_and_every_fault_names_a_key(document):
    settings = Settings()
    take_document(settings, document, "FILE")
    assert all(fault.path and fault.path.isprintable() for fault in settings.faults)


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("[[api]]\n", "api", "must be a table: write [api]"),
        ("[api]\novh = 1\n", "api.ovh", "must be a table: write [api.ovh]"),
        ('"api.socket" = "/a"\n', '"api.socket"', "is an unknown option"),
        ('"" = 1\n', '""', "is an unknown option"),
        ("[disk_group]\nid = 1\n", "disk_group", "must be an array of tables: write [[disk_group]]"),
        ("disk_group = [1]\n", "disk_group", "must be an array of tables: write [[disk_group]]"),
        ("[[disk_group]]\nid = 1\n", "disk_group[0].disks", "is required"),
        ('[[disk_group]]\ndisks = ["/dev/sda"]\n', "disk_group[0].id", "is required"),
        (
            '[[disk_group]]\nid = 1\ndisks = ["/dev/sda", "sdb"]\n',
            "disk_group[0].disks",
            "element 1 must be an absolute path",
        ),
        (
            '[[disk_group]]\nid = 1\ndisks = ["/dev/sda", "/dev/sda"]\n',
            "disk_group[0].disks",
            "element 1 is a path that stood there before",
        ),
        (
            '[[disk_group]]\nid = 1\ndisks = ["/a"]\n[[disk_group]]\nid = 1\ndisks = ["/b"]\n',
            "disk_group[1].id",
            "gives a second group the id 1",
        ),
        (
            '[[disk_group]]\nid = 1\ndisks = ["/a"]\nname = "x"\n',
            "disk_group[0].name",
            "is an unknown option; a disk group has id and disks",
        ),
        (f'[api]\nsocket = "/{"s" * 107}"\n', "api.socket", "is a path of 108 bytes"),
        ('[api]\nsocket = "/\u00e9' + "s" * 105 + '"\n', "api.socket", "is a path of 108 bytes"),
        ("[reboot]\ncommand = []\n", "reboot.command", "must have 1 to 256 elements, has 0"),
        ('[reboot]\ncommand = [""]\n', "reboot.command", "must not be empty"),
        ('[reboot]\ncommand = ["a", "b\\u0000"]\n', "reboot.command", "element 1 is not a word"),
        (
            "[reboot]\ngrace_seconds = 1" + "0" * 400 + "\n",
            "reboot.grace_seconds",
            "must be a number of seconds",
        ),
        ('[api]\nsocket_group = "a b"\n', "api.socket_group", "must be the name of a group"),
    ],
)
def test_what_is_wrong_is_told_with_the_way_out(faults, text, key, message):
    [(path, found)] = faults(text, cmdline="byoi.service_name=ns1")
    assert path == key
    assert found.startswith(message)


@pytest.mark.parametrize(
    "name", ["", "ns1/../x", ".", "..", "-a", "ns 1", "n\u00e9", "a" * 254, "a?b", "a%2f"]
)
def test_a_name_that_no_url_could_carry_is_refused(faults, name):
    [(key, _)] = faults(f'service_name = "{name}"\n')
    assert key == "service_name"


# -- rules ----------------------------------------------------------------------------------------------------

LISTEN = f'{NAME}[api]\nlisten = "0.0.0.0:9443"\n'
TLS = 'tls_cert = "/t.crt"\ntls_key = "/t.key"\n'


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("0.0.0.0:9443", ("0.0.0.0", 9443)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses_are_read(load, listen, expected):
    assert load(f'{NAME}[api]\nlisten = "{listen}"\n{TLS}client_ca = "/c"').api.listen == expected


@pytest.mark.parametrize(
    "listen",
    [
        ":9443",
        "9443",
        "0.0.0.0",
        "::1:9443",
        "[::1]",
        "[::g]:1",
        "1.2.3.256:1",
        "1.2:1",
        "a:65536",
        "a:-1",
        "a:\u0661",
    ],
)
def test_what_is_no_address_is_refused_once_and_shows_how_one_looks(faults, listen):
    found = faults(f'{NAME}[api]\nlisten = "{listen}"\n{TLS}client_ca = "/c"')
    assert [key for key, _ in found] == ["api.listen"]
    assert "such as 0.0.0.0:9443" in found[0][1]


def test_a_listener_needs_certificate_key_and_a_way_to_authenticate(faults):
    found = faults(LISTEN)
    assert [key for key, _ in found] == ["api.listen"] * 3
    text = " ".join(message for _, message in found)
    assert all(key in text for key in ("api.tls_cert", "api.tls_key", "api.client_ca", "api.token_file"))


def test_what_is_given_wrongly_is_not_told_to_be_missing_too(faults):
    found = faults(f'{LISTEN}tls_cert = "t.crt"\ntls_key = "/t.key"\nclient_ca = "/c"\n')
    assert [key for key, _ in found] == ["api.tls_cert"]


def test_ovh_signatures_need_all_three_options(faults):
    found = faults(f'{LISTEN}{TLS}[api.ovh]\napplication_key = "abcdef"\n')
    assert [key for key, _ in found] == ["api.ovh.application_secret_file", "api.ovh.consumer_key_file"]
    assert all("three options or none" in message for _, message in found)


@pytest.mark.parametrize(
    "url",
    [
        "https://c.example.net",
        "https://c.example.net:8443/byoi",
        "http://127.0.0.1:8000/x",
        "http://[::1]:1",
        "http://localhost",
    ],
)
def test_control_planes_are_reached_by_tls_or_on_this_machine(load, url):
    assert load(f'{NAME}[control_plane]\nurl = "{url}/"\n').control_plane.url == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://control.example.net", "plain http is for this machine only"),
        ("http://127.0.0.1.example.net", "plain http is for this machine only"),
        ("http://0.0.0.0", "plain http is for this machine only"),
        ("file:///etc/passwd", "must begin with https://"),
        ("control.example.net", "must begin with https://"),
        ("https://", "names no host"),
        ("https://[::1", "malformed"),
        ("https://h:99999", "malformed"),
        ("https://user:hunter2hunter2@h", "put a token into control_plane.token_file"),
        ("https://h/?token=hunter2", "neither query nor fragment"),
        ("https://h/#hunter2", "neither query nor fragment"),
    ],
)
def test_other_urls_are_refused_and_not_shown(faults, url, message):
    [(key, found)] = faults(f'{NAME}[control_plane]\nurl = "{url}"\n')
    assert key == "control_plane.url"
    assert message in found
    assert "hunter2" not in found


def test_options_without_effect_are_doubtful_but_no_fault(load):
    config = load(f'{NAME}[api]\n{TLS}[control_plane]\nca_file = "/ca"\n[reboot]\nuntold_seconds = 9\n')
    assert [doubt.path for doubt in config.warnings] == [
        *("api.tls_cert", "api.tls_key"),
        *("control_plane.ca_file", "reboot.untold_seconds"),
    ]
    assert config.warnings[2].message.startswith("has no effect without control_plane.url")
    assert load(FULL).warnings == ()


# -- what is left of one with faults ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "socket"),
    [
        (f'{NAME}surprise = 1\n[api]\nsocket = "/srv/a.sock"', "ns1.example.net", "/srv/a.sock"),
        ("surprise = 1", None, "/run/byoi-agent/api.sock"),
        (f'{NAME}[api]\nsocket = "relative"', "ns1.example.net", "/run/byoi-agent/api.sock"),
        ("no TOML", None, "/run/byoi-agent/api.sock"),
    ],
)
def test_faults_are_told_on_the_socket_that_is_configured_or_else_on_the_default_one(
    tmp_path, text, name, socket
):
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(ConfigInvalid) as caught:
        load_config(str(file), cmdline="", credentials=None)
    remains = load_remains(str(file), cmdline="", faults=caught.value.faults)
    assert (remains.service_name, remains.socket, remains.socket_group) == (name, socket, None)


def test_a_socket_that_is_doubted_is_not_used(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text(f'{NAME}[api]\nsocket = "/tmp/anybody/a.sock"\nsocket_group = "nobody-knows"\n')
    doubts = [Fault("api.socket_group", "there is no such group")]
    remains = load_remains(str(file), cmdline="byoi.service_name=ns2", faults=doubts)
    assert (remains.socket, remains.socket_group) == ("/run/byoi-agent/api.sock", None)
    assert remains.service_name == "ns2"
