"""The kernel command line: split as the kernel does it, and over the file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigInvalid
from agent.model.disks import GroupSpec
from agent.service.config.model import load_config, load_disk_groups
from agent.service.config.sources import Settings, split_command_line, take_command_line

NAME = "byoi.service_name=ns1 "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n", []),
        ("quiet a=b", [("quiet", None), ("a", "b")]),
        ("a=b=c  d=", [("a", "b=c"), ("d", "")]),
        ('a="b c" d', [("a", "b c"), ("d", None)]),
        ('"a=b c" d', [("a", "b c"), ("d", None)]),
        ('a=b" "c', [("a", 'b" "c')]),
        ('a="b" c"', [("a", "b"), ('c"', None)]),
        ('a="b c', [("a", "b c")]),
        ('a=" ', [("a", " ")]),
        ('"a="b""', [("a", 'b"')]),
        ('a="', [("a", "")]),
        ('a="b\\"c', [("a", 'b\\"c')]),  # a backslash means nothing: the quoting ends, the quote stays
        ("=a b", [("=a", None), ("b", None)]),
        ("a=b\n", [("a", "b")]),
    ],
)
def test_words_are_split_as_the_kernel_splits_them(text, expected):
    assert split_command_line(text) == expected


def test_secrets_on_the_command_line_are_warned_of_once_and_never_shown():
    settings = Settings()
    words = "systemd.set_credential=control_plane.token:hush systemd.set_credential_binary=api.token:aHVzaA=="
    take_command_line(settings, f"quiet {words} systemd.set_credential=motd:hello")
    [doubt] = settings.warnings
    assert doubt.message.startswith(
        "api.token, control_plane.token: on the kernel command line, which every user"
    )
    assert "hush" not in doubt.message
    assert "aHVzaA" not in doubt.message
    assert settings.faults == []


def test_other_credentials_on_the_command_line_are_nobodys_concern():
    settings = Settings()
    take_command_line(settings, "systemd.set_credential=motd:hello systemd.set_credential")
    assert settings.warnings == []


WORD = st.text(st.characters(codec="utf-8", exclude_characters='"= \t\n\v\f\r'), min_size=1)
VALUE = st.text(st.characters(codec="utf-8", exclude_characters='"'))


@given(st.lists(st.tuples(WORD, VALUE, st.booleans())))
def test_what_was_quoted_comes_back(words):
    line = " ".join(f'"{key}={value}"' if whole else f'{key}="{value}"' for key, value, whole in words)
    assert split_command_line(line) == [(key, value) for key, value, _ in words]


@given(st.text('ab=" \n'))
def test_no_line_loses_anything_but_quotes_and_space(line):
    parts = split_command_line(line)
    joined = "".join(name + ("" if value is None else f"={value}") for name, value in parts)
    assert [c for c in joined if c in "ab="] == [c for c in line if c in "ab="]


@given(st.text() | st.lists(st.sampled_from([*'byoi.=",-_ 1', "disk_group", "api", "listen"])).map("".join))
def test_no_line_raises(line):
    settings = Settings()
    take_command_line(settings, line + " byoi." + line)
    assert all(fault.path.isprintable() for fault in settings.faults)


def test_the_kernel_command_line_wins_over_the_file(load):
    config = load(
        'service_name = "ns1"\n[reboot]\nenabled = true\ngrace_seconds = 5\n',
        cmdline="BOOT_IMAGE=/vmlinuz quiet byoi.service_name=ns2 byoi.reboot.enabled=no console=ttyS0",
    )
    assert (config.service_name, config.reboot.enabled, config.reboot.grace_seconds) == ("ns2", False, 5.0)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("true", True),
        ("1", True),
        ("yes", True),
        ("YES", True),
        ("false", False),
        ("0", False),
        ("no", False),
        ("http", "http"),
    ],
)
def test_booleans_have_three_spellings(load, word, value):
    assert load(cmdline=f"{NAME}byoi.policy.require_checksum={word}").policy.require_checksum == value


def test_commands_are_split_as_a_shell_does(load):
    config = load(
        cmdline=f"""{NAME}byoi.reboot.command="sh -c 'sync; reboot -f'" byoi.reboot.grace_seconds=0.5"""
    )
    assert config.reboot.command == ("sh", "-c", "sync; reboot -f")
    assert config.reboot.grace_seconds == 0.5


def test_disk_groups_replace_those_of_the_same_id(load):
    config = load(
        'service_name = "ns1"\n[[disk_group]]\nid = 1\ndisks = ["/dev/a"]\n[[disk_group]]\nid = 2\ndisks = ["/dev/b"]',
        cmdline="byoi.disk_group.2=/dev/c,/dev/d byoi.disk_group.9=/dev/e",
    )
    assert config.disk_groups == (
        GroupSpec(1, ("/dev/a",)),
        GroupSpec(2, ("/dev/c", "/dev/d")),
        GroupSpec(9, ("/dev/e",)),
    )


def test_the_last_word_wins_and_a_hyphen_is_an_underscore(load):
    assert load(cmdline="byoi.service_name=a byoi.service-name=b").service_name == "b"


@pytest.mark.parametrize(
    ("word", "key", "message"),
    [
        ("byoi.serviec_name=x", "serviec_name", "did you mean service_name?"),
        ("byoi.=x", '""', "is an unknown option"),
        ("byoi.api=x", "api", "is an unknown option"),
        ("byoi.reboot.enabled", "reboot.enabled", "write byoi.reboot.enabled=VALUE"),
        ("byoi.reboot.enabled=", "reboot.enabled", "must be true, 1 or yes, or else false, 0 or no"),
        ("byoi.reboot.enabled=maybe", "reboot.enabled", "must be true, 1 or yes"),
        ("byoi.reboot.grace_seconds=ten", "reboot.grace_seconds", "must be a number"),
        ("byoi.reboot.grace_seconds=nan", "reboot.grace_seconds", "must be a number"),
        ('byoi.reboot.command="sh -c \'"', "reboot.command", "as a shell does: No closing quotation"),
        ("byoi.reboot.command=", "reboot.command", "must have 1 to 256 elements"),
        ("byoi.api.socket=", "api.socket", "must not be empty"),
        ("byoi.api.socket=/\udcff", "api.socket", "bytes that are not UTF-8"),
        ("byoi.disk_group=/dev/a", "disk_group", "write byoi.disk_group.1="),
        ("byoi.disk_group.0=/dev/a", "disk_group.0", "names a group whose id must be an integer from 1"),
        ("byoi.disk_group.x=/dev/a", "disk_group.x", "names a group whose id must be an integer"),
        ("byoi.disk_group.1=sda", "disk_group.1", "element 0 must be an absolute path"),
        ("byoi.disk_group.1=/dev/a,", "disk_group.1", "element 1 must not be empty"),
        ("byoi.disk_group.1", "disk_group.1", "write byoi.disk_group.1=VALUE"),
    ],
)
def test_a_wrong_word_is_a_fault_with_the_way_out(faults, word, key, message):
    [(path, found)] = faults(cmdline=NAME + word)
    assert path == key
    assert message in found
    assert found.endswith("(given in: kernel command line)")


@pytest.mark.parametrize("word", ["byoi.service_name", "byoi.service_name="])
def test_a_required_option_given_wrongly_is_not_told_to_be_missing_too(faults, word):
    assert [key for key, _ in faults(cmdline=word)] == ["service_name"]


def test_an_authentication_given_wrongly_is_not_told_to_be_missing_too(faults):
    text = 'service_name = "ns1"\n[api]\nlisten = "[::]:1"\ntls_cert = "/c"\ntls_key = "/k"\n'
    assert [key for key, _ in faults(text, cmdline="byoi.api.client_ca")] == ["api.client_ca"]


def test_words_of_others_are_left_alone(load):
    assert load(cmdline=f"{NAME}byoi byoix.a=b xbyoi.a=1 systemd.unit=byoi.target").service_name == "ns1"


def test_commands_without_the_daemon_read_the_same_groups(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(
        '[[disk_group]]\nid = 2\ndisks = ["/dev/a"]\n[[disk_group]]\nid = 1\ndisks = ["/dev/b"]\n'
    )
    words = "byoi.disk_group.2=/dev/c byoi.policy.allow_http=no"
    found = load_disk_groups(str(path), cmdline=words)
    assert found == (GroupSpec(1, ("/dev/b",)), GroupSpec(2, ("/dev/c",)))
    assert (
        found
        == load_config(str(path), cmdline=f"{words} byoi.service_name=ns1", credentials=None).disk_groups
    )
    assert load_disk_groups(None, cmdline="", default_path=tmp_path / "absent") == ()
    for bad in ("byoi.disk_group.0=/dev/c", "byoi.disk-groups=/dev/c"):
        with pytest.raises(ConfigInvalid):
            load_disk_groups(str(path), cmdline=bad)


RAMDISK = (
    "ipa-api-url=http://192.0.2.1:6385/,http://192.0.2.2:6385 ipa-insecure=1 ipa-ca-file=/ca.pem "
    "ipa_advertise_host=192.0.2.7 ipa-listen-port=9990 ipa-debug=1 ipa-global-request-id=req-1a "
    "ipa-inspection-callback-url=http://192.0.2.1:6385/v1/continue_inspection"
)


def test_what_is_addressed_to_an_ironic_ramdisk_is_understood(load):
    config = load(cmdline=RAMDISK)
    ironic = config.ironic
    assert config.service_name == "ironic"
    assert ironic.url == ("http://192.0.2.1:6385", "http://192.0.2.2:6385")
    assert (ironic.insecure, ironic.ca_file, ironic.advertise) == (True, "/ca.pem", "192.0.2.7")
    assert ironic.listen == ("0.0.0.0", 9990)
    assert ironic.inspection_url == ("http://192.0.2.1:6385/v1/continue_inspection",)
    assert (ironic.request_id, config.log.level) == ("req-1a", "debug")
    assert config.warnings == ()


def test_the_token_that_ironic_writes_on_its_virtual_media(load, faults):
    config = load(cmdline=f"{RAMDISK} ipa-agent-token={'t0ken' * 8}")
    assert config.ironic.agent_token == "t0ken" * 8
    assert "t0ken" not in repr(config)
    assert config.warnings == ()
    [(key, message)] = faults(cmdline=f"{RAMDISK} ipa-agent-token=short")
    assert key == "ironic.agent_token_file"
    assert "ipa-agent-token holds 5 characters" in message


def test_an_inspection_is_all_that_ironic_asks_of_a_server_that_it_does_not_keep_running(load):
    config = load(cmdline="ipa-inspection-callback-url=http://192.0.2.1:6385/v1/continue_inspection")
    assert config.ironic.url == ("http://192.0.2.1:6385",)
    assert config.ironic.inspection_url == ("http://192.0.2.1:6385/v1/continue_inspection",)
    assert (config.service_name, config.warnings) == ("ironic", ())
    config = load(cmdline=f"{RAMDISK} byoi.ironic.url=http://192.0.2.9")
    assert config.ironic.url == ("http://192.0.2.9",)
    # Another service's, which tells neither versions nor nodes.
    assert (
        load(cmdline=f"{NAME} ipa-inspection-callback-url=http://192.0.2.1:5050/v1/continue").ironic is None
    )


def test_an_advertised_address_that_is_none(faults):
    [(key, message)] = faults(cmdline=f"{NAME} ipa-api-url=http://h ipa-advertise-host=1.2.3.4.5")
    assert (key, "must be an IP address" in message) == ("ironic.advertise", True)


def test_options_of_our_own_outrank_those_of_the_ramdisk(load):
    config = load(cmdline=f"byoi.ironic.listen=[::]:1 byoi.service_name=ns1 {RAMDISK}")
    assert (config.ironic.listen, config.service_name) == (("::", 1), "ns1")


def test_what_only_the_other_ramdisk_knows_is_left_alone_with_a_note(load):
    [warning] = load(cmdline=f"{NAME} ipa-ip-version=4").warnings
    assert (warning.path, "nothing like it" in warning.message) == ("ipa-ip-version", True)


def test_no_ironic_is_configured_by_its_other_options(load):
    config = load(cmdline=f"{NAME} ipa-insecure")
    assert config.ironic is None
    assert [warning.path for warning in config.warnings] == ["ironic.insecure"]


def test_a_wrong_word_to_the_ramdisk_is_named_as_it_was_given(faults):
    assert faults(cmdline=f"{NAME} ipa-api-url") == [
        ("ironic.url", "has no value: write ipa-api-url=VALUE (given in: kernel command line)")
    ]
    [(key, message)] = faults(cmdline=f"{NAME} ipa-api-url=mdns")
    assert (key, "must begin with https:// or http://" in message) == ("ironic.url", True)
