"""The schemas of signatures: what a job asks for, and what the status tells of them."""

from agent.model.schema.blocks import Schema, a_text, an_object, nullable, of, whole
from agent.model.signature import (
    KEY_NAME,
    MAX_KEYS,
    MAX_PUBLIC_KEY_BYTES,
    MAX_SIGNATURE_BYTES,
    OVER,
    SIGNATURE_TYPES,
)
from agent.model.url import MAX_URL_LENGTH


def signature_schema(web_url: str) -> Schema:
    """The member `signature` of a job; `web_url` is the pattern of an http or https URL."""
    properties = {
        "type": of("string", "What made it.", enum=list(SIGNATURE_TYPES)),
        "over": nullable(
            of("string", "What it is of; absent: the image, as it is downloaded.", enum=list(OVER))
        ),
        "url": nullable(a_text("Where it is, by http or https.", MAX_URL_LENGTH, pattern=web_url)),
        "data": nullable(
            a_text(
                "The signature itself, instead of its URL: as text, or base64 of it. Without either it is in the "
                "checksum file (clear-signed, or by signify -e), or of cosign in the registry that has the image.",
                MAX_SIGNATURE_BYTES,
            )
        ),
        "keys": nullable(
            of(
                "array",
                "Names of the operator's keys that count; absent: all of the type.",
                items=a_text(limit=100, pattern=whole(KEY_NAME)),
                maxItems=MAX_KEYS,
            )
        ),
        "publicKey": nullable(
            a_text("A key instead of the operator's: as text, or base64 of it.", MAX_PUBLIC_KEY_BYTES)
        ),
    }
    text = "Who has to vouch for the image, before it becomes bootable. Not in the OVH API."
    return an_object(properties, required=["type"], text=text)


def signed_schema() -> Schema:
    """The member `signature` of a status."""
    signature = {
        "key": of("string", "Fingerprint or id; empty where neither is known."),
        "name": nullable(of("string", "The operator's name of the key. null: the job's own, or unknown.")),
        "user": nullable(of("string", "Whom the key says that it belongs to.")),
        "algorithm": of("string"),
        "signedAt": nullable(
            of("string", "As the signature says, or null. RFC 3339, UTC.", format="date-time")
        ),
        "accepted": of("boolean", "Whether it counts."),
        "reason": nullable(of("string", "Why it does not. null: it does.")),
    }
    properties = {
        "type": of("string", enum=list(SIGNATURE_TYPES)),
        "over": of("string", "What was signed.", enum=list(OVER)),
        "signatures": of(
            "array", "All that were found; one that counts suffices.", items=an_object(signature)
        ),
    }
    text = "Who has signed the image or its checksum file. null: not asked for, or not known yet."
    return an_object(properties, text=text)
