"""The schemas of a receipt: the statement, and the envelope around it."""

from agent.model.disk_state import DiskState
from agent.model.receipt import PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE
from agent.model.schema.blocks import Schema, a_count, a_time, an_object, nullable, of
from agent.model.schema.signature import signed_schema
from agent.model.schema.status import registry_schema
from agent.model.stage import EVERY_STAGE
from agent.model.status import DONE, ERROR
from agent.model.verification import COMMIT, READBACK


def envelope_schema() -> Schema:
    """A receipt as it is handed out: a DSSE envelope."""
    signature = {
        "keyid": of("string", "SHA-256 of the public key (SubjectPublicKeyInfo, DER) in hexadecimal."),
        "sig": of(
            "string", "Ed25519, over the type and the payload as DSSE has it.", contentEncoding="base64"
        ),
    }
    properties = {
        "payloadType": {"const": PAYLOAD_TYPE},
        "payload": of(
            "string",
            "The statement: JSON, its members in order, without spaces, in ASCII.",
            contentEncoding="base64",
            contentMediaType=PAYLOAD_TYPE,
            contentSchema=statement_schema(),
        ),
        "signatures": of(
            "array",
            "Empty where the operator has configured no key.",
            items=an_object(signature),
            maxItems=1,
        ),
    }
    return an_object(properties, text="What was done: an in-toto statement in a DSSE envelope.")


def statement_schema() -> Schema:
    """The statement: in-toto Attestation Framework, Statement v1."""
    digest = of(
        "object", "One digest, by its kind.", additionalProperties={"type": "string"}, minProperties=1
    )
    name = of(
        "string", "Of the image's file; `job`, with the digest of predicate.job, where no digest is known."
    )
    subject = an_object({"name": name, "digest": digest})
    properties = {
        "_type": {"const": STATEMENT_TYPE},
        "subject": of("array", items=subject, minItems=1),
        "predicateType": {"const": PREDICATE_TYPE},
        "predicate": _predicate(),
    }
    return an_object(properties)


def _predicate() -> Schema:
    text, known = of("string"), nullable(of("string"))
    seconds = nullable(of("number", "Seconds.", minimum=0))
    stage = {
        "name": of("string", enum=[stage.value for stage in EVERY_STAGE]),
        "startedAt": a_time(),
        "seconds": seconds,
    }
    error = {"code": text, "blame": text, "message": text, "detail": known, "hint": known}
    state = of("string", "What is on the disks.", enum=[state.value for state in DiskState])
    outcome = {
        "status": of("string", enum=[DONE, ERROR]),
        "message": text,
        "error": nullable(an_object(error)),
        "diskState": nullable(state),
    }
    image = {
        "url": known | {"description": "Where it came from, without secrets."},
        "mirrors": of("array", "Where else it may have come from.", items=text),
        "checksum": known
        | {"description": "Of the file as downloaded: kind, colon, digits. null: not known."},
        "registry": nullable(registry_schema()),
        "compared": of(
            "boolean",
            "Whether the job named a checksum, or a registry's manifest a digest, which it was compared with.",
        ),
        "bytes": a_count("Of the file, as downloaded."),
        "type": known,
        "packing": known,
    }
    disk = {"path": text, "model": known, "serial": known, "wwn": known, "size": a_count("Bytes.")}
    disk["failed"] = known | {"description": "Why it was kept out; null: it was not."}
    times = {
        "acceptedAt": nullable(a_time()),
        "startedAt": a_time(),
        "finishedAt": nullable(a_time()),
        "stages": of("array", items=an_object(stage)),
    }
    read_back = of(
        "string",
        f"What was read back from the device and compared: `{COMMIT}` is both ends and the config drive, "
        f"`{READBACK}` everything that was written. null: nothing.",
        enum=[COMMIT, READBACK],
    )
    return an_object(
        {
            "job": of("object", "The job as posted, its secrets blanked."),
            "jobId": known,
            "origin": nullable(
                of("string", "Who gave the job.", enum=["api", "control", "ironic", "command"])
            ),
            "server": known,
            "outcome": an_object(outcome),
            "image": an_object(image),
            "signature": nullable(signed_schema()),
            "disks": of("array", "Those that were written to, or would have been.", items=an_object(disk)),
            "readBack": nullable(read_back),
            "times": an_object(times),
            "attempt": of("integer", minimum=1),
            "versions": of("object", "Of the agent and what it runs on.", additionalProperties=text),
        }
    )
