"""The schemas of errors: of a deployment's in its status, and of every error answer of the API."""

from agent import errors
from agent.errors import Blame, DeployError
from agent.model.disk_state import DiskState
from agent.model.schema.blocks import Schema, an_object, nullable, of

_FAULT_CODES = ("checksum.type", "checksum.pair")
"""The codes of single faults of a job, in addition to those of the error classes."""


def error_codes() -> tuple[str, ...]:
    """Every code that an error of a deployment can have, sorted."""
    family = (item for item in vars(errors).values() if isinstance(item, type))
    classes = (item for item in family if issubclass(item, DeployError) and item is not DeployError)
    return tuple(sorted({cls.code for cls in classes} | set(_FAULT_CODES)))


def error_schema() -> Schema:
    """Of a deployment."""
    properties = {
        "code": of("string", enum=list(error_codes())),
        "blame": of("string", enum=[blame.value for blame in Blame]),
        "retryable": of("boolean", "Whether another try may help."),
        "message": of("string"),
        "detail": nullable(of("string", "Names the object, and both numbers.")),
        "hint": nullable(
            of(
                "string",
                "What to do about it; of a deployment also what is on the disk, as its last sentence.",
            )
        ),
        "diskState": of("string", "What is on the disk.", enum=[state.value for state in DiskState]),
        "faults": of("array", "Of a job that is not valid.", items=_fault()),
    }
    return an_object(properties, required=[name for name in properties if name != "faults"])


def error_body_schema() -> Schema:
    """The body of every error answer of the API."""
    properties = {
        "class": of("string", "Kind of the error, from the general to the special, separated by `::`."),
        "message": of("string", "For people."),
        "errorCode": of("string", "For programs."),
        "details": of(
            "object",
            "More, by kind of error; `faults` of a job that is not valid.",
            properties={"faults": of("array", items=_fault())},
        ),
    }
    return an_object(properties)


def _fault() -> Schema:
    codes = [
        code
        for code in error_codes()
        if code
        in (
            *_FAULT_CODES,
            "job.invalid",
            "image.format",
            "config.invalid",
            "configdrive.content",
            "signature.missing",
        )
    ]
    properties = {
        "path": of("string", "The member that it is about."),
        "message": of("string"),
        "code": of("string", enum=codes),
    }
    return an_object(properties)
