"""`byoi-agent --check`: what is in force, where it came from, and what the files it names are worth."""

import json
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from agent.service.config.check import check, explain, file_faults, find_warnings
from agent.service.config.model import Config
from agent.service.config.options import TABLE
from tests.kit.revocation import DAY, make_crl

TOKEN = "s3cret-token-of-the-api-0123456789"


class Pki:
    """A CA, a certificate with its key, and files that are not quite that."""

    def __init__(self, directory):
        self.directory = directory
        authority = self.authority = trustme.CA()
        leaf, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
        self.ca = self.file("ca.crt", authority.cert_pem.bytes())
        self.cert = self.file("tls.crt", b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        self.key = self.file("tls.key", leaf.private_key_pem.bytes())
        self.other_key = self.file("other.key", other.private_key_pem.bytes())

    def file(self, name, content, mode=0o600):
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def crl(self, **times):
        return make_crl(self.authority, **times)

    def link(self, name, target):
        path = self.directory / name
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        return path


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def configured(tmp_path, pki, secret_file):
    """The path of a configuration with a listener; keywords replace its files."""

    def configured(**files):
        paths = {"tls_cert": pki.cert, "tls_key": pki.key, "client_ca": pki.ca} | files
        lines = [f'{key} = "{path}"\n' for key, path in paths.items()]
        path = tmp_path / "agent.toml"
        path.write_text(
            f'service_name = "ns1"\n[api]\nlisten = "[::]:9443"\n{"".join(lines)}'
            f'token_file = "{secret_file("token", TOKEN)}"\n[reboot]\ncommand = ["true"]\n'
        )
        return str(path)

    return configured


def run(capsys, path, *, as_json=False, cmdline=""):
    status = check(path, cmdline=cmdline, credentials=None, as_json=as_json)
    captured = capsys.readouterr()
    assert TOKEN not in captured.out + captured.err
    return status, captured.out, captured.err


def test_every_option_is_shown_with_its_value_and_origin(capsys, configured):
    path = configured()
    status, out, err = run(capsys, path, cmdline="byoi.log.level=debug byoi.disk_group.2=/dev/a,/dev/b")
    rows = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1].split("  ") for line in out.splitlines()}
    shown = {key: (parts[0], parts[-1].strip()) for key, parts in rows.items()}
    assert (status, err) == (0, "")
    assert {option.key for option in TABLE} < set(shown)
    assert shown["service_name"] == ('"ns1"', path)
    assert shown["api.listen"] == ('"[::]:9443"', path)
    assert shown["log.level"] == ('"debug"', "kernel command line")
    assert shown["reboot.grace_seconds"] == ("60", "default")
    assert shown["control_plane.url"] == ("-", "default")
    assert shown["disk_group.2"] == ('["/dev/a", "/dev/b"]', "kernel command line")
    assert shown["api.token_file"][0] == "***"
    assert shown["api.token_file"][1].endswith(f"token, named in: {path}")


def test_json_holds_the_same_for_machines(capsys, configured):
    path = configured()
    status, out, _ = run(capsys, path, as_json=True)
    document = json.loads(out)
    options = {option["key"]: (option["value"], option["origin"]) for option in document["options"]}
    assert (status, document["valid"], document["faults"], document["warnings"]) == (0, True, [], [])
    assert options["api.listen"] == ("[::]:9443", path)
    assert options["reboot.command"] == (["true"], path)
    assert options["api.socket_group"] == (None, "default")
    assert options["api.token_file"][0] == "***"


def test_all_faults_are_on_stderr_and_the_exit_status_is_2(capsys, tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text("a = 1\nb = 2\n")
    status, out, err = run(capsys, str(path))
    assert (status, out) == (2, "")
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        ["byoi-agent", "a"],
        ["byoi-agent", "b"],
        ["byoi-agent", "service_name"],
    ]
    status, out, _ = run(capsys, str(path), as_json=True)
    document = json.loads(out)
    assert (status, document["valid"], document["options"]) == (2, False, [])
    assert [fault["path"] for fault in document["faults"]] == ["a", "b", "service_name"]


def test_a_good_listener_has_no_fault(pki, configured, load):
    config = load(Path(configured()).read_text())
    assert file_faults(config) == []
    assert find_warnings(config) == []


def bad_files(pki):
    body = pki.key.read_text().splitlines()
    password = BestAvailableEncryption(b"hunter2")
    encrypted = load_pem_private_key(pki.key.read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, password
    )
    damaged = pki.ca.read_bytes().replace(b"MII", b"MIJ", 1)
    return [
        ("api.tls_cert", "/absent.crt", "/absent.crt cannot be read: No such file or directory"),
        ("api.tls_cert", pki.key, "holds no certificate in PEM"),
        ("api.tls_key", pki.cert, "holds no private key in PEM"),
        ("api.tls_key", pki.other_key, "does not belong to the certificate"),
        ("api.tls_key", pki.file("enc.key", encrypted), "is encrypted: nobody is there to type its password"),
        ("api.tls_key", pki.file("cut.key", "\n".join(body[:3] + body[-1:]).encode()), "cannot be used"),
        (
            "api.tls_key",
            pki.file("open.key", pki.key.read_bytes(), 0o644),
            "is open to every user (mode 0644)",
        ),
        ("api.tls_key", pki.link("link.key", pki.key), f"is a link to {pki.key}: name the file itself"),
        (
            "api.tls_cert",
            pki.link("link.crt", pki.file("loose.crt", pki.cert.read_bytes(), 0o664)),
            "loose.crt can be written by its group (mode 0664): look through it, then chmod go-w",
        ),
        ("api.client_ca", pki.file("loose.ca", pki.ca.read_bytes(), 0o646), "can be written by every user"),
        ("api.client_crl", "/absent.crl", "/absent.crl cannot be read: No such file or directory"),
        ("api.client_crl", pki.ca, "holds no revocation list in PEM"),
        (
            "api.client_crl",
            pki.file("cut.crl", pki.crl().replace(b"\nM", b"\nA", 1)),
            "revocation list that cannot",
        ),
        (
            "api.client_crl",
            pki.file("open.crl", pki.crl(), 0o666),
            "can be written by its group and every user",
        ),
        (
            "api.client_crl",
            pki.file("old.crl", pki.crl() + pki.crl(since=-2 * DAY, until=-DAY)),
            "every client certificate would be refused: get a new list from the CA",
        ),
        (
            "api.client_crl",
            pki.file("new.crl", pki.crl(since=DAY, until=2 * DAY)),
            "set this server's clock, or get the list that holds now",
        ),
        ("api.client_ca", pki.directory, "cannot be read: Is a directory"),
        ("api.client_ca", pki.file("damaged.crt", damaged), "holds a certificate that cannot be read"),
        ("api.client_ca", pki.file("large.crt", bytes(2**20 + 1)), "is larger than 1048576 bytes"),
    ]


def test_a_file_that_cannot_be_used_is_a_fault_that_says_why(capsys, pki, configured):
    for key, path, message in bad_files(pki):
        status, _, err = run(capsys, configured(**{key.removeprefix("api."): path}))
        [line] = err.splitlines()
        assert status == 2
        assert line.startswith(f"byoi-agent: {key}: "), message
        assert message in line
        assert "(given in: " in line


def test_public_files_may_be_links_of_root_s_own(capsys, pki, configured):
    links = {"tls_cert": pki.link("a", pki.cert), "client_ca": pki.link("b", pki.ca)}
    assert run(capsys, configured(**links))[0] == 0


@pytest.mark.parametrize("key", ["state.directory", "api.socket"])
def test_a_directory_that_others_may_write_is_a_fault_with_the_way_out(capsys, configured, tmp_path, key):
    directory = tmp_path / "state"
    value = directory if key == "state.directory" else directory / "api.sock"
    assert run(capsys, configured(), cmdline=f"byoi.{key}={value}")[0] == 0  # it is made by the daemon
    directory.mkdir()
    directory.chmod(0o770)
    status, _, err = run(capsys, configured(), cmdline=f"byoi.{key}={value}")
    assert status == 2
    assert err == (
        f"byoi-agent: {key}: {directory} can be written by its group (mode 0770): look through it, then "
        f"chmod go-w {directory} (given in: kernel command line)\n"
    )


def test_a_revocation_list_that_holds_is_no_fault_and_without_a_ca_is_doubtful(
    capsys, pki, configured, tmp_path
):
    crl = pki.file("clients.crl", pki.crl())
    assert run(capsys, configured(client_crl=crl))[0] == 0
    path = Path(configured(client_crl=crl))
    path.write_text(path.read_text().replace("client_ca", "#client_ca"))
    status, _, err = run(capsys, str(path))
    assert (status, "api.client_crl: has no effect without api.client_ca" in err) == (0, True)


def test_the_files_of_control_plane_and_images_are_looked_at_too(capsys, configured):
    words = (
        "byoi.control_plane.url=https://c byoi.control_plane.ca_file=/absent/1 byoi.download.ca_file=/absent/2 "
        "byoi.api.socket_group=no-such-group"
    )
    status, _, err = run(capsys, configured(), cmdline=words)
    assert status == 2
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        "control_plane.ca_file",
        "download.ca_file",
        "api.socket_group",
    ]


def test_doubts_are_warnings_and_no_fault(capsys, configured):
    status, _, err = run(capsys, configured(), cmdline="byoi.reboot.command=/absent/reboot")
    assert status == 0
    assert err == "byoi-agent: warning: reboot.command: there is no program /absent/reboot on this system\n"
    assert run(capsys, configured(), cmdline="byoi.reboot.command=/absent byoi.reboot.enabled=0")[2] == ""


def test_a_configuration_made_by_hand_can_be_explained():
    rows = {row.key: (row.value, row.origin) for row in explain(Config("ns1"))}
    assert rows["service_name"] == ("ns1", "default")
    assert rows["control_plane.token_file"] == (None, "default")


def test_no_control_sequence_reaches_the_terminal(capsys, tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(
        'service_name = "ns1"\n[reboot]\ncommand = ["true", "\\u001b[2J\\u202e"]\n"\\u001b[2J" = 1\n'
    )
    _, out, err = run(capsys, str(path))
    path.write_text('service_name = "ns1"\n[reboot]\ncommand = ["true", "\\u001b[2J\\u202e"]\n')
    _, out, more = run(capsys, str(path))
    assert "reboot.command" in out
    assert all(line.isprintable() for line in (out + err + more).splitlines())
