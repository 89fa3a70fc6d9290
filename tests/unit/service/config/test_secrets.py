"""Secrets: from files and from credentials, and never anywhere but in their own member."""

import io
import os
import traceback

import pytest

from agent.errors import ConfigInvalid
from agent.service.config.sources import credentials_directory

TOKEN = "s3cret-token-of-the-api-0123456789"
OTHER = "another-Secret/of+the=control~plane"
NAME = 'service_name = "ns1"\n'


def test_secrets_are_read_from_their_files_without_white_space_around(load, secret_file):
    config = load(
        f'{NAME}[api]\ntoken_file = "{secret_file("t", TOKEN + chr(10))}"\n'
        f'[api.ovh]\napplication_key = "key"\napplication_secret_file = "{secret_file("a", "A" * 32)}"\n'
        f'consumer_key_file = "{secret_file("c", " " + "C" * 32)}"\n'
        f'[control_plane]\nurl = "https://c"\ntoken_file = "{secret_file("p", OTHER)}"\n'
    )
    assert config.api.token == TOKEN
    assert config.control_plane.token == OTHER
    ovh = config.api.ovh
    assert (ovh.application_key, ovh.application_secret, ovh.consumer_key) == ("key", "A" * 32, "C" * 32)


def test_a_credential_wins_over_the_file(load, secret_file, tmp_path):
    secret_file("api.token", OTHER, 0o400)
    config = load(f'{NAME}[api]\ntoken_file = "/absent"\n', credentials=tmp_path)
    assert config.api.token == OTHER
    assert config.origins["api.token_file"] == "credential api.token"


def test_credentials_alone_are_enough_for_a_listener_and_for_ovh(load, secret_file, tmp_path):
    for name in ("api.token", "api.ovh.application_secret", "api.ovh.consumer_key", "control_plane.token"):
        secret_file(name, f"{name}-0123456789abcdef")
    assert load(NAME, credentials=tmp_path).control_plane is None
    config = load(
        f'{NAME}[api]\nlisten = "[::]:1"\ntls_cert = "/c"\ntls_key = "/k"\novh.application_key = "key"\n'
        '[control_plane]\nurl = "https://c"\n',
        credentials=tmp_path,
    )
    assert config.api.token == "api.token-0123456789abcdef"
    assert config.api.ovh.consumer_key == "api.ovh.consumer_key-0123456789abcdef"
    assert config.control_plane.token == "control_plane.token-0123456789abcdef"
    assert config.warnings == ()


def test_where_systemd_puts_credentials_is_read_from_the_environment():
    assert str(credentials_directory({"CREDENTIALS_DIRECTORY": "/run/credentials/x"})) == "/run/credentials/x"
    assert credentials_directory({}) is None


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (TOKEN, 0o604, "is open to every user (mode 0604): chmod 0600 it, and replace the secret"),
        (TOKEN, 0o602, "is open to every user"),
        ("short", 0o600, "holds 5 characters, a secret has at least 16"),
        ("", 0o600, "holds 0 characters, a secret has at least 16"),
        (f"{TOKEN}\n{TOKEN}", 0o600, "holds more than one word"),
        (f"{TOKEN}\0", 0o600, "holds more than one word, or characters that a header cannot carry"),
        (b"\xff" * 20, 0o600, "holds more than one word, or characters that a header cannot carry"),
        (TOKEN * 200, 0o600, "is larger than 4096 bytes"),
    ],
)
def test_a_file_that_cannot_be_a_secret_is_refused(faults, secret_file, content, mode, message):
    path = secret_file("t", content, mode)
    [(key, found)] = faults(f'{NAME}[api]\ntoken_file = "{path}"\n')
    assert key == "api.token_file"
    assert found.startswith(f"the file {message}")
    assert str(path) in found


def test_a_secret_open_to_a_group_is_doubtful(load, secret_file):
    config = load(
        f'{NAME}[control_plane]\nurl = "https://c"\ntoken_file = "{secret_file("t", TOKEN, 0o640)}"\n'
    )
    assert [doubt.path for doubt in config.warnings] == ["control_plane.token_file"]
    assert "(mode 0640); 0600 is safer" in config.warnings[0].message


@pytest.mark.parametrize("mode", [0o620, 0o660])
def test_a_secret_that_its_group_may_exchange_is_refused(faults, secret_file, mode):
    path = secret_file("t", TOKEN, mode)
    [(key, found)] = faults(f'{NAME}[api]\ntoken_file = "{path}"\n')
    assert (key, f"{path} can be written by its group (mode {mode:04o})" in found) == ("api.token_file", True)


def test_a_secret_behind_a_link_or_below_a_directory_of_others_is_refused(faults, secret_file, tmp_path):
    path = secret_file("t", TOKEN)
    (tmp_path / "link").symlink_to(path)
    [(key, found)] = faults(f'{NAME}[api]\ntoken_file = "{tmp_path / "link"}"\n')
    assert (key, "is a link to" in found) == ("api.token_file", True)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    path.rename(open_to_all / "t")
    open_to_all.chmod(0o777)
    [(key, found)] = faults(f'{NAME}[api]\ntoken_file = "{open_to_all / "t"}"\n')
    assert (key, f"chmod go-w {open_to_all}" in found) == ("api.token_file", True)


def test_a_fifo_is_refused_without_waiting_for_a_writer(faults, tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    [(key, found)] = faults(f'{NAME}[api]\ntoken_file = "{tmp_path / "fifo"}"\n')
    assert (key, "is not a regular file" in found) == ("api.token_file", True)


def test_a_bad_credential_is_told_under_its_option_and_counts_as_given(faults, secret_file, tmp_path):
    secret_file("api.token", "short")
    text = f'{NAME}[api]\nlisten = "[::]:1"\ntls_cert = "/c"\ntls_key = "/k"\n'
    assert faults(text, credentials=tmp_path) == [
        (
            "api.token_file",
            "the file holds 5 characters, a secret has at least 16 (given in: credential api.token)",
        )
    ]


@pytest.mark.parametrize(
    "text",
    [
        f'[api]\ntoken = "{TOKEN}"\n',
        f'[api]\ntoken_file = "{TOKEN}"\n',
        f'[api]\ntoken_file = "/{TOKEN}"\n',
        f'[api.ovh]\napplication_key = ["{TOKEN}"]\napplication_secret = "{TOKEN}"\n',
        f'[control_plane]\nurl = "https://{TOKEN}@h"\ntoken_file = ["{TOKEN}"]\n',
        f'[control_plane]\nurl = "https://h/?{TOKEN}"\n',
        f'[api]\nlisten = "{TOKEN}"\nsocket = "{TOKEN}"\n[log]\nlevel = "{TOKEN}"\n',
        f'[[disk_group]]\nid = "{TOKEN}"\ndisks = ["{TOKEN}"]\n',
        f'[api]\ntoken = "{TOKEN}\n',
        f"[api]\ntoken = {TOKEN}\n",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_told(load, text):
    with pytest.raises(ConfigInvalid) as caught:
        load(NAME + text, cmdline=f"byoi.api.token={TOKEN} byoi.control_plane.token_file={TOKEN}")
    told = io.StringIO()
    traceback.print_exception(caught.value, file=told)
    told.write(repr(caught.value) + str(caught.value) + repr(caught.value.document()))
    assert "api.token: must not stand here itself: put it into a file" in told.getvalue()
    assert TOKEN not in told.getvalue()


def test_a_secret_on_the_kernel_command_line_is_refused_with_the_way_out(faults):
    [(key, found)] = faults(cmdline=f"byoi.service_name=ns1 byoi.api.token={TOKEN}")
    assert key == "api.token"
    assert "put it into a file, and name that by api.token_file" in found


def test_a_secret_next_to_a_fault_is_not_told(load, secret_file):
    text = f'{NAME}[api]\ntoken_file = "{secret_file("t", TOKEN)}"\nlisten = 1\n'
    with pytest.raises(ConfigInvalid) as caught:
        load(text)
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "api.listen" in told
    assert TOKEN not in told


def test_no_secret_is_in_the_repr_of_a_configuration(load, secret_file):
    config = load(
        f'{NAME}[api]\ntoken_file = "{secret_file("t", TOKEN)}"\n'
        f'[api.ovh]\napplication_key = "key"\napplication_secret_file = "{secret_file("a", TOKEN)}"\n'
        f'consumer_key_file = "{secret_file("c", TOKEN)}"\n'
        f'[control_plane]\nurl = "https://c"\ntoken_file = "{secret_file("p", TOKEN)}"\n'
    )
    assert config.api.token == TOKEN
    assert TOKEN not in repr(config) + str(config) + f"{config.api.ovh}{config.control_plane}{config.origins}"
