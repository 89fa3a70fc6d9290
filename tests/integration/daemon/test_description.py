"""The running daemon does what its own description says, whatever schemathesis thinks of sending it."""

import subprocess
import sys
from pathlib import Path

from tests.integration.daemon.conftest import TOKEN

# Left out: that everything of the schema is taken. The reader of jobs is stricter where a schema has no words for it.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)


def test_the_daemon_is_as_it_describes_itself(make_tls_agent, tmp_path):
    # Its disk is missing, so no job gets as far as to look up the host of its URL.
    agent = make_tls_agent(disks=(tmp_path / "missing.img",))
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"{agent.url}/openapi.json",
        f"--tls-verify={tmp_path / 'ca.pem'}",
        f"--header=Authorization: Bearer {TOKEN}",
        "--exclude-path=/v1/events",  # it does not end
        f"--checks={','.join(CHECKS)}",
        "--max-examples=30",
        "--continue-on-failure",
        "--request-timeout=70",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{agent.log[-4000:]}"
    assert "Traceback" not in agent.log
