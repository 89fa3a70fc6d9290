"""Keys and signatures by the tools that people sign with: gpg, minisign, signify, ssh-keygen, openssl."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.commands import run


class GnuPg:
    """A home of gpg with keys without passphrases, each named by a word."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._environment = {"PATH": os.environ["PATH"], "GNUPGHOME": str(home), "LC_ALL": "C.UTF-8"}

    def gpg(self, *words: object, data: bytes = b"") -> bytes:
        """Run gpg over stdin."""
        argv = ["gpg", "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""]
        argv += [str(word) for word in words]
        done = subprocess.run(argv, input=data, capture_output=True, env=self._environment, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def make(self, name: str, algorithm: str = "ed25519", expires: str = "never", now: str = "") -> None:
        """A key that signs. `now` is a faked time such as 20200101T000000."""
        self.gpg(*_at(now), "--quick-gen-key", f"{name} <{name}@example.net>", algorithm, "sign", expires)

    def public(self, *names: str, armoured: bool = True) -> bytes:
        """The public keys of these names."""
        users = [f"={name} <{name}@example.net>" for name in names]
        return self.gpg(*(["--armor"] if armoured else []), "--export", *users)

    def sign(
        self, data: bytes, *names: str, how: str = "--detach-sign", now: str = "", more: tuple[str, ...] = ()
    ) -> bytes:
        """Sign with all of these keys."""
        users = [word for name in names for word in ("--local-user", f"{name}@example.net")]
        return self.gpg(*_at(now), *users, *more, how, data=data)

    def revoke(self, name: str) -> None:
        """Import the revocation that gpg has made together with the key."""
        listed = self.gpg("--with-colons", "--list-keys", f"{name}@example.net").decode()
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
        text = (self.home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text()
        self.gpg("--import", data=text.replace(":-----BEGIN", "-----BEGIN").encode())


def _at(now: str) -> list[str]:
    return ["--faked-system-time", f"{now}!"] if now else []


@contextmanager
def gnupg() -> Iterator[GnuPg]:
    """A home of gpg while the block runs. Its path is short: it has sockets in it."""
    with tempfile.TemporaryDirectory(prefix="byoi-gpg-", dir="/tmp") as home:
        keys = GnuPg(Path(home))
        try:
            yield keys
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)


class Minisign:
    """A key of minisign, or of signify: their public keys are the same."""

    def __init__(self, directory: Path, name: str) -> None:
        self._secret, self._file = directory / f"{name}.key", directory / f"{name}.pub"
        run("minisign", "-G", "-W", "-p", self._file, "-s", self._secret)

    @property
    def public(self) -> bytes:
        return self._file.read_bytes()

    def sign(self, path: Path, *words: str) -> bytes:
        """Sign a file; `-l` makes a signature of the older kind."""
        signature = path.with_name(path.name + ".minisig")
        run("minisign", "-S", "-s", self._secret, "-m", path, "-x", signature, *words)
        return signature.read_bytes()


class Signify:
    """A key of OpenBSD's signify."""

    def __init__(self, directory: Path, name: str) -> None:
        self._secret, self._file = directory / f"{name}.sec", directory / f"{name}.pub"
        run("signify-openbsd", "-G", "-n", "-c", name, "-p", self._file, "-s", self._secret)

    @property
    def public(self) -> bytes:
        return self._file.read_bytes()

    def sign(self, path: Path, *, embedded: bool = False) -> bytes:
        """Sign a file; embedded, the file follows its signature."""
        signature = path.with_name(path.name + ".sig")
        run(
            "signify-openbsd",
            "-S",
            *(["-e"] if embedded else []),
            "-s",
            self._secret,
            "-m",
            path,
            "-x",
            signature,
        )
        return signature.read_bytes()


class Ssh:
    """A key of ssh-keygen."""

    def __init__(self, directory: Path, name: str, kind: str = "ed25519", bits: int | None = None) -> None:
        self._secret = directory / name
        size = [] if bits is None else ["-b", bits]
        run("ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", f"{name}@example.net", "-f", self._secret)

    @property
    def public(self) -> bytes:
        return self._secret.with_name(self._secret.name + ".pub").read_bytes()

    def sign(self, path: Path, *words: str, namespace: str = "file") -> bytes:
        """Sign a file."""
        signature = path.with_name(path.name + ".sig")
        signature.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-Y", "sign", *words, "-n", namespace, "-f", self._secret, path)
        return signature.read_bytes()


class OpenSsl:
    """A key as cosign has them: its signatures of blobs are those of openssl, in base64."""

    def __init__(self, directory: Path, name: str, *algorithm: str) -> None:
        self._secret, self._file = directory / f"{name}.pem", directory / f"{name}.cosign.pub"
        words = algorithm or ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        run("openssl", "genpkey", *words, "-out", self._secret)
        run("openssl", "pkey", "-in", self._secret, "-pubout", "-out", self._file)

    @property
    def public(self) -> bytes:
        return self._file.read_bytes()

    def sign(self, path: Path, *words: str) -> bytes:
        """Sign a file: the plain signature."""
        signature = path.with_name(path.name + ".sig")
        run("openssl", *(words or ("dgst", "-sha256", "-sign")), self._secret, "-out", signature, path)
        return signature.read_bytes()

    def sign_whole(self, path: Path) -> bytes:
        """Sign a file with a key of Ed25519, which takes no digest."""
        signature = path.with_name(path.name + ".sig")
        run("openssl", "pkeyutl", "-sign", "-inkey", self._secret, "-rawin", "-in", path, "-out", signature)
        return signature.read_bytes()


def receipt_key(directory: Path) -> Path:
    """A private key of Ed25519 for receipts, as an operator makes it; its public one is beside it."""
    path = directory / "receipt.key"
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", path)
    run("openssl", "pkey", "-in", path, "-pubout", "-out", path.with_suffix(".pub"))
    path.chmod(0o600)
    return path
