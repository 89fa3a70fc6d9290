"""Checks an envelope with securesystemslib, which knows nothing of ours: `python dsse_check.py FILE KEY`.

Prints the payload where one of the signatures is good by the public key; ends with 1 where none is.
"""

import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]


def main(file: str, key: str) -> int:
    """Check; gives the exit status."""
    envelope = Envelope.from_dict(json.loads(Path(file).read_text()))
    public = load_pem_public_key(Path(key).read_bytes())
    # It looks for the key by its id, which is a hint and may be any text.
    keys: list[Key] = [SSlibKey.from_crypto(public, keyid=name) for name in envelope.signatures]
    try:
        envelope.verify(keys, 1)
    except (VerificationError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(envelope.payload.decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
