"""The running daemon does what its own description says, whatever schemathesis thinks of sending it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

TOKEN = "correct-horse-battery"
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


@pytest.fixture
def tls_agent(make_agent, tmp_path):
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cert.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    cert.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.crt"))
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "tls.key").chmod(0o600)
    return make_agent(
        config=f"""
[api]
socket = "@SOCKET@"
listen = "127.0.0.1:0"
tls_cert = "{tmp_path / "tls.crt"}"
tls_key = "{tmp_path / "tls.key"}"
token_file = "{tmp_path / "token"}"
"""
    ).start()


def test_the_daemon_is_as_it_describes_itself(tls_agent, tmp_path):
    port = re.findall(r"127\.0\.0\.1:([1-9]\d*)", tls_agent.log)[0]
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"https://127.0.0.1:{port}/openapi.json",
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
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{tls_agent.log[-4000:]}"
    assert "Traceback" not in tls_agent.log
