"""The program that `agent.host.sigstore` runs: checks a bundle of Sigstore with the library of that name.

Started as `python -I sigstore_child.py`, it imports nothing of this package. The question is JSON on stdin, the answer
JSON on stdout. Nothing is fetched: the roots are those of the question.
"""

import json
import sys
from typing import Any

try:
    import sigstore.errors
    from sigstore.hashes import Hashed
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import AllOf, AnyOf, Identity, OIDCIssuer, OIDCIssuerV2
    from sigstore_models.common.v1 import HashAlgorithm
    from sigstore_models.trustroot.v1 import TrustedRoot as RootDocument
except ImportError as error:
    missing: str | None = str(error)
else:
    missing = None


def check(question: dict[str, Any]) -> dict[str, Any]:
    """`{}` where all is well, `{"fault": text, "root": bool}`, or `{"missing": text}` where there is no library."""
    if missing is not None:
        return {"missing": missing}
    try:
        root = TrustedRoot(RootDocument.from_json(json.dumps(question["root"])))
        verifier = Verifier(trusted_root=root)
    except (sigstore.errors.Error, ValueError) as error:
        return {"fault": f"the trusted root cannot be used: {words(error)}", "root": True}
    signed = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=bytes.fromhex(question["digest"]))
    issuer = question["issuer"]
    known = AnyOf([OIDCIssuerV2(issuer), OIDCIssuer(issuer)])  # older certificates have the older extension
    who = AllOf([Identity(identity=question["identity"]), known])
    try:
        verifier.verify_artifact(signed, Bundle.from_json(json.dumps(question["bundle"])), who)
    except sigstore.errors.CertValidationError as error:
        return {
            "fault": f"its certificate is of no authority in the trusted root: {words(error)}",
            "root": True,
        }
    except (sigstore.errors.Error, ValueError) as error:
        return {"fault": words(error), "root": False}
    return {}


def words(error: Exception) -> str:
    """What an error says, in one line, without what pydantic adds for programmers."""
    return " ".join(str(error).partition("[type=")[0].split())


if __name__ == "__main__":
    json.dump(check(json.load(sys.stdin)), sys.stdout)
