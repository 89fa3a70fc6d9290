import contextlib
import grp
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from agent.service.http.sockets import (
    Certificates,
    ListenError,
    ListeningSocket,
    TlsFiles,
    listen_tls,
    listen_unix,
)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "api.sock"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_socket_is_for_its_owner_and_its_group_whatever_the_umask(path, umask):
    group = next(entry for entry in grp.getgrall() if entry.gr_gid != os.getegid())
    before = os.umask(umask)
    try:
        listener = listen_unix(str(path), group.gr_name if os.geteuid() == 0 else None)
    finally:
        os.umask(before)
    assert mode(path) == 0o660
    assert path.lstat().st_gid == (group.gr_gid if os.geteuid() == 0 else os.getegid())
    listener.close()


def test_a_directory_that_is_not_there_is_made(tmp_path):
    path = tmp_path / "run" / "api.sock"
    listen_unix(str(path)).close()
    assert mode(path.parent) == 0o755


def test_the_file_goes_with_the_listener_and_nothing_else_is_left(path, tmp_path):
    listener = listen_unix(str(path))
    assert list(tmp_path.iterdir()) == [path]
    listener.close()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_successor_is_left_alone(path):
    first = listen_unix(str(path))
    path.unlink()
    second = listen_unix(str(path))
    first.close()
    assert path.exists()
    second.close()


def test_a_socket_that_nobody_answers_on_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = listen_unix(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_socket_that_somebody_answers_on_is_not_taken_away(path):
    first = listen_unix(str(path))
    with pytest.raises(ListenError, match=r"another byoi-agent answers on .*: stop it"):
        listen_unix(str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_a_file_in_the_way_is_named_and_kept(path):
    path.write_text("precious")
    with pytest.raises(ListenError, match=r"api.sock exists and is not a socket: remove it"):
        listen_unix(str(path))
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_told_as_such(tmp_path):
    with pytest.raises(ListenError, match="fewer than 100 bytes"):
        listen_unix(str(tmp_path / ("a" * 120)))


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ListenError, match=r"file/api.sock cannot be made: "):
        listen_unix(str(tmp_path / "file" / "api.sock"))


def test_a_group_that_does_not_exist_is_named(path):
    with pytest.raises(ListenError, match="no group no-such-group: make it"):
        listen_unix(str(path), "no-such-group")


UNDER_THE_UNIT = """
import sys
from agent.service.http.sockets import ListenError, listen_unix
try:
    listen_unix(sys.argv[1], sys.argv[2])
except ListenError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody else can give a capability up")
@pytest.mark.parametrize("own", [True, False], ids=["its own group", "another group"])
def test_without_the_capability_to_give_files_away_only_its_own_group_can_have_the_socket(path, own):
    group = os.getegid() if own else max({entry.gr_gid for entry in grp.getgrall()} - set(os.getgroups()))
    command = [
        "setpriv",
        "--bounding-set=-chown",
        sys.executable,
        "-c",
        UNDER_THE_UNIT,
        str(path),
        str(group),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert path.exists() is own
    assert said.startswith(
        "" if own else f"api.socket_group: the socket cannot be given to the group with the number {group}"
    )
    assert [file.name for file in path.parent.iterdir()] == (["api.sock"] if own else [])


# -- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cert() -> trustme.LeafCert:
    return trustme.CA().issue_cert("127.0.0.1")


@pytest.fixture
def files(cert, tmp_path) -> TlsFiles:
    (tmp_path / "tls.crt").write_bytes(cert.cert_chain_pems[0].bytes())
    (tmp_path / "tls.key").write_bytes(cert.private_key_pem.bytes())
    return TlsFiles(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))


def test_tls_is_1_2_or_newer_and_asks_for_no_certificate_without_a_ca(files):
    listener = listen_tls("127.0.0.1", 0, files)
    context = listener.tls()
    assert context is not None
    assert (context.minimum_version, context.verify_mode) == (ssl.TLSVersion.TLSv1_2, ssl.CERT_NONE)
    listener.close()


def test_with_a_ca_a_certificate_is_asked_for_and_not_required(files, cert, tmp_path):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = Certificates(TlsFiles(files.cert, files.key, str(tmp_path / "ca.pem"))).context
    assert context.verify_mode == ssl.CERT_OPTIONAL


@pytest.mark.parametrize(("name", "key"), [("tls.crt", "api.tls_cert"), ("tls.key", "api.tls_key")])
def test_a_file_that_is_not_there_is_named(files, tmp_path, name, key):
    (tmp_path / name).unlink()
    with pytest.raises(ListenError, match=rf"{key}: .*{name} cannot be read: No such file"):
        Certificates(files)


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\x00\xff" * 100])
def test_a_file_without_a_certificate_is_named(files, tmp_path, content):
    (tmp_path / "tls.crt").write_bytes(content)
    with pytest.raises(ListenError, match=r"tls.crt with .*tls.key cannot be used"):
        Certificates(files)


def test_the_key_of_another_certificate_is_told_as_such(files, tmp_path):
    other = trustme.CA().issue_cert("127.0.0.1")
    (tmp_path / "tls.key").write_bytes(other.private_key_pem.bytes())
    with pytest.raises(ListenError, match=r"tls.key is not the key of the certificate"):
        Certificates(files)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(files, cert, tmp_path):
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(cert.private_key_pem.bytes(), None)
    pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"x"))
    (tmp_path / "tls.key").write_bytes(pem)
    with pytest.raises(ListenError, match=r"tls.key is encrypted: give a key without"):
        Certificates(files)


def test_a_ca_file_without_a_ca_is_named(files, tmp_path):
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(ListenError, match=r"api.client_ca: .*ca.pem holds no CA certificate"):
        Certificates(TlsFiles(files.cert, files.key, str(tmp_path / "ca.pem")))


def test_a_reload_of_broken_files_keeps_what_is_in_force(files, tmp_path):
    certificates = Certificates(files)
    before = certificates.context
    (tmp_path / "tls.crt").write_text("half of a")
    with pytest.raises(ListenError):
        certificates.load(files)
    assert certificates.context is before


def test_an_address_in_use_is_named(files):
    first = listen_tls("127.0.0.1", 0, files)
    with pytest.raises(ListenError, match=rf"127.0.0.1:{first.port}: .*something else listens there"):
        listen_tls("127.0.0.1", first.port or 0, files)
    first.close()


def test_an_address_of_another_machine_is_refused(files):
    with pytest.raises(ListenError, match=r"api.listen: cannot listen on 192.0.2.1:0"):
        listen_tls("192.0.2.1", 0, files)


def handshake(listener: ListeningSocket, ciphers: str | None, newest: ssl.TLSVersion) -> tuple[str, str]:
    """Version and suite that a client and the listener agree on; raises SSLError where there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = newest
    if ciphers is not None:
        context.set_ciphers(ciphers)
    settings = listener.tls()
    assert settings is not None
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with (
            contextlib.suppress(ssl.SSLError, OSError),
            settings.wrap_socket(theirs, server_side=True) as tls,
        ):
            tls.recv(1)

    server = threading.Thread(target=serve)
    server.start()
    try:
        with context.wrap_socket(ours) as tls:
            return str(tls.version()), (tls.cipher() or ("",))[0]
    finally:
        ours.close()
        server.join()


@pytest.fixture(params=[trustme.KeyType.ECDSA, trustme.KeyType.RSA], ids=lambda kind: kind.name)
def listener(request, tmp_path) -> Iterator[ListeningSocket]:
    cert = trustme.CA(key_type=request.param).issue_cert("127.0.0.1", key_type=request.param)
    (tmp_path / "tls.crt").write_bytes(cert.cert_chain_pems[0].bytes())
    (tmp_path / "tls.key").write_bytes(cert.private_key_pem.bytes())
    made = listen_tls("127.0.0.1", 0, TlsFiles(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")))
    yield made
    made.close()


@pytest.mark.parametrize("ciphers", ["ECDHE+AES:!AESGCM:!AESCCM", "DHE:!ECDHE", "RSA:!ECDHE:!DHE"])
def test_tls_1_2_without_forward_secrecy_or_without_an_aead_is_refused(listener, ciphers):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(listener, ciphers, ssl.TLSVersion.TLSv1_2)


@pytest.mark.parametrize("ciphers", ["ECDHE+AESGCM", "ECDHE+CHACHA20"])
def test_tls_1_2_with_ecdhe_and_an_aead_is_taken(listener, ciphers):
    version, suite = handshake(listener, ciphers, ssl.TLSVersion.TLSv1_2)
    assert version == "TLSv1.2"
    assert suite.startswith("ECDHE-")
    assert "GCM" in suite or "CHACHA20" in suite


def test_tls_1_3_is_taken_as_it_is(listener):
    assert handshake(listener, None, ssl.TLSVersion.TLSv1_3)[0] == "TLSv1.3"
