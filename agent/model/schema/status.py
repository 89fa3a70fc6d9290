"""The schema of the status: of a deployment, or of an empty slot."""

from agent.model.schema.blocks import Schema, a_count, a_time, an_object, nullable, of
from agent.model.schema.disks import disk_schema
from agent.model.schema.errors import error_schema
from agent.model.schema.signature import signed_schema
from agent.model.stage import EVERY_STAGE
from agent.model.status import DOING, DONE, ERROR
from agent.model.surroundings import ContactState, Trouble
from agent.model.verification import VERIFY

WAITING_ON = ("network", "disk", "cpu")
MAX_REVISION = 2**53 - 1
"""The largest integer that every reader of JSON keeps (RFC 8259, section 6)."""
REBOOT_STATES = ("disabled", "waiting", "due", "calledOff", "failed")
REBOOT_WAITS_FOR = ("client", "controlPlane", "shutdown")


def status_schema() -> Schema:
    """The status of a deployment. The first four members are those of the OVH API."""
    seconds = nullable(of("number", "Seconds; null while it runs.", minimum=0))
    stage = {"name": _stage(), "startedAt": a_time("When it began."), "seconds": seconds}
    disk = disk_schema(required=["path", "size"])
    disk["properties"]["failed"] = nullable(of("string", "Why it is kept out. null: it is not."))
    properties = {
        "servername": nullable(of("string")),
        "status": of("string", enum=[DOING, DONE, ERROR]),
        "message": of("string", "For people. The first is `starting`."),
        "checksum": nullable(
            of(
                "string",
                "Of the file as downloaded: type, colon, digits. Compared with the job's where it names one.",
            )
        ),
        "stage": nullable(_stage()),
        "percent": of("number", "Never goes back.", minimum=0, maximum=100),
        "bytesDownloaded": a_count("Bytes of this attempt."),
        "bytesTotal": nullable(a_count("Bytes of the file, where the image server told.")),
        "bytesWritten": a_count("Bytes of the file that were decoded and written."),
        "rate": a_count("Bytes a second."),
        "eta": nullable(of("number", "Seconds until the download is complete.", minimum=0)),
        "waitingOn": nullable(of("string", "Which side is the slowest.", enum=list(WAITING_ON))),
        "slowDisk": nullable(
            of("string", "The path of the disk for which the others wait, where several get the image.")
        ),
        "connections": a_count("Connections over which the image comes; 0 where none is open."),
        "attempt": of("integer", minimum=1),
        "startedAt": a_time(),
        "updatedAt": a_time(),
        "finishedAt": nullable(a_time()),
        "stages": of("array", "Those that have begun.", items=an_object(stage)),
        "error": nullable(error_schema()),
        "disk": nullable(disk),
        "disks": of(
            "array", "All disks that get the image; `disk` is the first that is not kept out.", items=disk
        ),
        "imageType": nullable(
            of("string", "What the content of the file showed, such as qcow2; null: not known yet.")
        ),
        "imagePacking": nullable(
            of("string", "What is around it, such as gzip or tar in gzip; null: nothing, or not known yet.")
        ),
        "signature": nullable(signed_schema()),
        "readBack": nullable(
            of(
                "string",
                "What was read back from the device and is as it was written: both ends and the config drive, or "
                "everything. null: nothing yet.",
                enum=list(VERIFY),
            )
        ),
        "registry": nullable(registry_schema()),
        "job": of("object", "The job as posted, its secrets blanked."),
        "notes": _notes(),
        "id": nullable(of("string", "The id of the job: the control plane's, or one that the agent made.")),
        "revision": _revision(),
        "reboot": nullable(_reboot()),
        **_surroundings(),
    }
    return an_object(properties)


def idle_schema() -> Schema:
    """The answer of /v1/status without a deployment: the members of the OVH API are null."""
    null = {"type": "null"}
    properties = {
        "servername": nullable(of("string")),
        "status": null,
        "message": null,
        "checksum": null,
        "id": null,
        "notes": _notes(),
        "revision": _revision(),
        "reboot": null,
        **_surroundings(),
    }
    return an_object(properties)


def _surroundings() -> dict[str, Schema]:
    """What stands in every status document, as `agent.model.surroundings` makes it."""
    strings, text, count = of("array", items=of("string")), of("string"), a_count()
    doubts = of("array", items=an_object({"path": text, "message": text, "code": text}))
    contact = {
        "url": text,
        "state": of("string", "How the last call went.", enum=[state.value for state in ContactState]),
        "since": nullable(a_time("When it came to this state.")),
        "reason": nullable(of("string", "Why the last call failed, or what is waited for.")),
        "trouble": nullable(of("string", "Why it failed, in a word.", enum=[word.value for word in Trouble])),
        "nextTry": nullable(a_time("When it is tried again.")),
    }
    node = of("string", "The UUID of the node that this machine is; null: not looked up yet.")
    return {
        "agent": an_object({"version": text, "addresses": strings, "listening": strings}),
        "controlPlane": nullable(an_object(contact, text="null: none is configured.")),
        "ironic": nullable(an_object({**contact, "node": nullable(node)}, text="null: none is configured.")),
        "configuration": an_object(
            {"inForce": of("boolean"), "faultCount": count, "faults": doubts, "warnings": doubts}
        ),
    }


def registry_schema() -> Schema:
    """The member `registry` of a status."""
    digest = of("string", "Algorithm, colon, digits.")
    properties = {
        "index": nullable(of("string", "Of the index that the URL names; null: it names the manifest.")),
        "manifest": digest,
        "layer": digest,
    }
    text = "What the URL has led to in its registry. null: it is of none, or not known yet."
    return an_object(properties, text=text)


def _stage() -> Schema:
    return of("string", enum=[stage.value for stage in EVERY_STAGE])


def _notes() -> Schema:
    return of("array", "What people should know: retries, redirects, repairs.", items=of("string"))


def _revision() -> Schema:
    return of(
        "integer", "Grows with each change of the document, also across restarts of the agent.", minimum=0
    )


def _reboot() -> Schema:
    properties = {
        "state": of("string", enum=list(REBOOT_STATES)),
        "at": nullable(a_time("When it comes at the latest.")),
        "reason": nullable(of("string", "Why it failed, or why it has not come yet.")),
        "waitingFor": nullable(of("string", "What it waits for.", enum=list(REBOOT_WAITS_FOR))),
        "since": nullable(a_time("When it came to this state.")),
    }
    return an_object(properties, text="The reboot after a deployment that is done.")
