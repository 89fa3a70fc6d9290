"""Reads a signature of any type. Imported with the first signature that comes: `cryptography` is not light."""

from collections.abc import Callable, Mapping, Sequence

from agent.formats.signatures import cosign, minisign, openpgp, sigstore, sshsig
from agent.formats.signatures.findings import Claims, KeyFile
from agent.formats.signatures.openpgp import read_openpgp

_READERS: Mapping[str, Callable[[bytes, Sequence[KeyFile], float], Claims]] = {
    "minisign": minisign.read_minisign,
    "ssh": sshsig.read_sshsig,
    "cosign": cosign.read_cosign,
    "sigstore": sigstore.read_sigstore,
}
_KEY_READERS: Mapping[str, Callable[[KeyFile], object]] = {
    "openpgp": openpgp.read_keys,
    "minisign": minisign.read_keys,
    "ssh": sshsig.read_keys,
    "cosign": cosign.read_keys,
    "sigstore": sigstore.read_keys,
}


def read_claims(
    kind: str, data: bytes, files: Sequence[KeyFile], now: float, *, clear_signed: bool = False, image: bool
) -> Claims:
    """Read a signature file and the keys.

    Args:
        kind: the type, of `agent.model.signature`.
        data: the signature file.
        files: the key files.
        now: seconds since the epoch, by this machine's clock.
        clear_signed: it was taken from a clear-signed text.
        image: it is of an image.

    Raises:
        Refused: it is no signature file of that type, or a key file is none.
    """
    if kind == "openpgp":
        return read_openpgp(data, files, now, text=clear_signed, detached_text=not image)
    return _READERS[kind](data, files, now)


def require_keys(kind: str, file: KeyFile) -> None:
    """Make sure that a file holds keys of a type.

    Raises:
        Refused: it holds none; the text names the file.
    """
    _KEY_READERS[kind](file)
