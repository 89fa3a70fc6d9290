"""The sockets that are served on. Blocking, and done once at the start: call it outside of the event loop.

Nothing can be connected to before its permissions are right. Whatever is wrong raises `ListenError`, which names the
file or the address, and the way out.
"""

import contextlib
import errno
import grp
import hashlib
import os
import socket
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.service.config.model import ApiConfig

SOCKET_MODE = 0o660
_BACKLOG = 1024
_PROBE_SECONDS = 2.0
# Of TLS 1.2: a key of its own for each connection, and no padding to be probed. Those of TLS 1.3 are all of that kind.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class ListenError(Exception):
    """A listener cannot be made; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the TLS listener finds its certificate, its key, the CA of client certificates and its CRL (PEM)."""

    cert: str
    key: str
    client_ca: str | None = None
    client_crl: str | None = None


def tls_files(api: ApiConfig) -> TlsFiles | None:
    """The files of a configuration; None where it has no TLS listener."""
    if api.tls_cert is None or api.tls_key is None:
        return None
    return TlsFiles(api.tls_cert, api.tls_key, api.client_ca, api.client_crl)


class TlsSettings(Protocol):
    """The TLS settings of a listener."""

    context: ssl.SSLContext
    """For the next connection."""
    trust: bytes
    """A digest of what client certificates are checked by: a connection made under another one may have to go."""


class Certificates:
    """The TLS settings of a listener, from its files. Renewed files are read by `load`, without a restart.

    Nothing watches the files: a certificate and its key are replaced one after the other, and only who replaced them
    knows when both are there. The daemon reloads on SIGHUP.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Raises ListenError, as `load` does."""
        self.trust = b""
        self.load(files)

    def load(self, files: TlsFiles) -> None:
        """Use these files, as they are now, for new connections.

        Raises:
            ListenError: they cannot be used; the settings in force stay.
        """
        trust = _digest_of(files.client_ca, files.client_crl)
        self.context = _tls_context(files)
        self.trust = trust


@dataclass(slots=True)
class ListeningSocket:
    """A socket that the API is served on: bound, listening, and non-blocking."""

    socket: socket.socket
    name: str
    local: bool
    """Whether it is the Unix socket."""
    certificates: TlsSettings | None = None
    """Of a TLS listener."""
    _inode: tuple[int, int] | None = field(default=None, repr=False)

    @property
    def port(self) -> int | None:
        """The TCP port; chosen by the kernel where 0 was asked for."""
        return None if self.local else int(self.socket.getsockname()[1])

    def tls(self) -> ssl.SSLContext | None:
        """The settings for the next connection."""
        return None if self.certificates is None else self.certificates.context

    @property
    def trust(self) -> bytes:
        """What the next connection's client certificate is checked by, as a digest."""
        return b"" if self.certificates is None else self.certificates.trust

    def close(self) -> None:
        """Stop listening. The file of a Unix socket goes, unless another one has taken its place."""
        self.socket.close()
        if self._inode is not None:
            with contextlib.suppress(OSError):
                if _inode(self.name) == self._inode:
                    Path(self.name).unlink()
            self._inode = None


# -- the Unix socket ---------------------------------------------------------------------------------------------


def listen_unix(path: str, group: str | None = None) -> ListeningSocket:
    """Listen on a Unix socket, mode 0660, owned by us and by `group`.

    The directory is made if it is not there. A socket that nobody answers on is replaced.

    Raises:
        ListenError: the path is too long or taken, there is no such group, or it may not be given the socket, or the
            filesystem refuses.
    """
    number = None if group is None else _group_number(group)
    _refuse_taken(path)
    # Bound and given its permissions under a temporary name, then renamed: whoever connects to the known one finds a
    # socket with the right permissions that is listened on, or none.
    private = f"{path}.{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            Path(private).unlink()
        sock.bind(private)
        if number is not None:
            _give_to_group(private, number)
        Path(private).chmod(SOCKET_MODE)
        sock.listen(_BACKLOG)
        sock.settimeout(0)
        Path(private).rename(path)
        return ListeningSocket(sock, path, local=True, _inode=_inode(path))
    except (OSError, ListenError) as error:
        sock.close()
        with contextlib.suppress(OSError):
            Path(private).unlink()
        if isinstance(error, ListenError):
            raise
        raise ListenError(_unix_reason(path, error)) from error


def _give_to_group(path: str, number: int) -> None:
    """Nothing is asked of the kernel where it is of that group already: the unit may not give files away."""
    if Path(path).stat().st_gid == number:
        return
    try:
        os.chown(path, -1, number)
    except PermissionError:
        raise ListenError(
            f"api.socket_group: the socket cannot be given to the group with the number {number}: run the daemon in it "
            "(Group= by systemctl edit byoi-agent)"
        ) from None


def _group_number(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ListenError(
            f"api.socket_group: there is no group {name}: make it (groupadd --system {name}), or name another one"
        ) from None


def _refuse_taken(path: str) -> None:
    """Refuse a path that is no socket, and a socket that somebody answers on."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # not there, or not to be seen: bind says what is wrong
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"api.socket: {path} exists and is not a socket: remove it, or name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            raise ListenError(
                f"api.socket: it cannot be told whether somebody answers on {path}: {_reason(error)}"
            ) from error
    raise ListenError(
        f"api.socket: another byoi-agent answers on {path}: stop it (systemctl stop byoi-agent), or name another path"
    )


def _unix_reason(path: str, error: OSError) -> str:
    if error.errno is None:  # "AF_UNIX path too long" has no number
        return f"api.socket: {path} cannot be made: {error}: name a path of fewer than 100 bytes"
    return f"api.socket: {path} cannot be made: {_reason(error)}"


def _inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


# -- TLS ---------------------------------------------------------------------------------------------------------


def listen_tls(host: str, port: int, files: TlsFiles) -> ListeningSocket:
    """Listen on a TCP address, with TLS 1.3, or 1.2 and one of its suites that are as good.

    Args:
        host: a name or an address; empty for every address of the machine.
        port: 0 lets the kernel choose.
        files: without `client_ca` no certificate is asked for; with it one is asked for, and has to be right if it
            is given.

    Raises:
        ListenError: a file or the address cannot be used.
    """
    return listen_tcp("api.listen", host, port, Certificates(files))


def listen_tcp(option: str, host: str, port: int, certificates: "TlsSettings") -> ListeningSocket:
    """Listen on a TCP address with these TLS settings.

    Args:
        option: that named the address, for the error.
        host: as for `listen_tls`.
        port: as for `listen_tls`.
        certificates: the settings.

    Raises:
        ListenError: the address cannot be used.
    """
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise ListenError(f"{option}: {where} is no address of this machine: {_reason(error)}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.settimeout(0)
    except OSError as error:
        sock.close()
        way_out = " (something else listens there)" if error.errno == errno.EADDRINUSE else ""
        raise ListenError(f"{option}: cannot listen on {where}: {_reason(error)}{way_out}") from error
    listener = ListeningSocket(sock, where, local=False, certificates=certificates)
    listener.name = f"{host}:{listener.port}"
    return listener


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    restrict(context)
    for key, path in (
        ("tls_cert", files.cert),
        ("tls_key", files.key),
        ("client_ca", files.client_ca),
        ("client_crl", files.client_crl),
    ):
        if path is not None:
            _require_readable(f"api.{key}", path)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except _PasswordAsked:
        raise ListenError(f"api.tls_key: {files.key} is encrypted: give a key without a password") from None
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not PEM"
        if reason == "KEY_VALUES_MISMATCH":
            raise ListenError(
                f"api.tls_key: {files.key} is not the key of the certificate {files.cert}"
            ) from error
        raise ListenError(
            f"api.tls_cert: {files.cert} with {files.key} cannot be used as a certificate and its key: {reason}"
        ) from error
    if files.client_ca is not None:
        _check_clients(context, files.client_ca, files.client_crl)
    return context


def restrict(context: ssl.SSLContext) -> None:
    """Have every listener speak TLS 1.3, or 1.2 and one of its suites that are as good, and HTTP/1.1 over it."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])


def _check_clients(context: ssl.SSLContext, client_ca: str, client_crl: str | None) -> None:
    """Have certificates of clients asked for and checked."""
    _load(context, "api.client_ca", client_ca, "CA certificate")
    context.verify_mode = ssl.CERT_OPTIONAL
    # A session that is taken up again is not checked again, be its certificate expired meanwhile.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    if client_crl is not None:
        _load(context, "api.client_crl", client_crl, "revocation list")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _load(context: ssl.SSLContext, key: str, path: str, what: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not PEM"
        raise ListenError(f"{key}: {path} holds no {what}: {reason}") from error


def _digest_of(*paths: str | None) -> bytes:
    """Of the content of files; one that cannot be read is a fault for whoever uses it."""
    digest = hashlib.sha256()
    for path in paths:
        with contextlib.suppress(OSError):
            content = b"" if path is None else Path(path).read_bytes()
            digest.update(len(content).to_bytes(8, "big") + content)
    return digest.digest()


class _PasswordAsked(Exception):
    """OpenSSL wants to decrypt a key; by default it would ask on the terminal."""


def _no_password() -> str:
    raise _PasswordAsked


def _require_readable(key: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ListenError(f"{key}: {path} cannot be read: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
