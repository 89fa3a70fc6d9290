"""What the guides tell people to type and to expect, done word for word: quick start, images, troubleshooting."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.model.job import parse_job
from agent.service.config.options import TABLE
from tests.kit.agent_process import DEPLOYMENT, NAME, agent_process
from tests.kit.commands import ROOT, attempt
from tests.kit.disks import make_disk
from tests.kit.images import make_image
from tests.kit.server import serving

DOCS = ROOT / "docs"
HEALTHZ = f"https://{NAME}:9443/healthz"


def block(page: str, sign: str) -> str:
    """The one indented block of a page that has `sign` in it."""
    found = [
        textwrap.dedent(match[0]).strip("\n") + "\n"
        for match in re.finditer(r"(?:^    .*\n|^\n(?=    ))+", (DOCS / page).read_text(), re.MULTILINE)
        if sign in match[0]
    ]
    assert len(found) == 1, f"{page} has {len(found)} blocks with {sign!r}"
    return found[0]


def shell(script: str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-euc", script],
        cwd=directory,
        capture_output=True,
        text=True,
        env=os.environ | env,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The overlay of the quick start, made by its own commands, and a daemon that runs with it, at a free port."""
    directory = tmp_path_factory.mktemp("site")
    made = shell(block("quickstart.md", "openssl req"), directory)
    assert made.returncode == 0, made.stderr
    overlay = directory / "overlay" / "etc" / "byoi-agent"
    text = block("quickstart.md", "[api]").replace("/etc/byoi-agent", str(overlay))
    config = text.replace("0.0.0.0:9443", "127.0.0.1:0").replace("[api]", '[api]\nsocket = "@SOCKET@"')
    disk = make_disk(directory / "disk.img")
    image = make_image(directory)
    with agent_process(directory / "agent", config=config, disks=(disk,)) as agent:
        agent.start()
        port = agent.url.rpartition(":")[2]
        yield SimpleNamespace(
            directory=directory, overlay=overlay, config=text, agent=agent, port=port, image=image
        )


def curl(site: SimpleNamespace, command: str) -> tuple[int, str]:
    """A curl command of a page, led to the daemon's port: its status and body."""
    lead = f"curl -sS -w '\\n%{{http_code}}' --connect-to {NAME}:9443:127.0.0.1:{site.port} "
    done = shell(command.replace("curl ", lead, 1), site.directory)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def commands(page: str, sign: str) -> list[str]:
    """The commands of a block, each in one line."""
    return block(page, sign).replace("\\\n", " ").splitlines()


def test_the_quick_start_keeps_its_secrets_to_root(site):
    assert {path.name: path.stat().st_mode & 0o777 for path in site.overlay.iterdir()} == {
        "tls.crt": 0o644, "tls.key": 0o600, "token": 0o600,
    }  # fmt: skip


def test_the_quick_starts_configuration_has_no_fault(site, tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(f'service_name = "{NAME}"\n' + site.config)
    checked = attempt(Path(sys.executable).parent / "byoi-agent", "--check", "--config", config)
    assert checked.returncode == 0, checked.stderr
    assert "api.listen" in checked.stdout


def test_the_quick_starts_dnsmasq_file_is_one(tmp_path):
    path = tmp_path / "dnsmasq.conf"
    lines = block("quickstart.md", "# dnsmasq.conf").replace("/srv/tftp", str(tmp_path))
    path.write_text(lines.replace("interface=eno1", "interface=lo"))
    assert "syntax check OK" in attempt("dnsmasq", "--test", f"--conf-file={path}").stderr


def test_a_deployed_server_is_sent_to_its_disk_and_no_other_is(tmp_path):
    conf = block("quickstart.md", "# dnsmasq.conf").splitlines()
    boots = [line.removeprefix("dhcp-boot=").split(",") for line in conf if line.startswith("dhcp-boot=")]
    assert ["tag:ipxe", "tag:deployed", "http://192.0.2.1/byoi/disk.ipxe"] in boots
    assert ["tag:ipxe", "tag:!deployed", "http://192.0.2.1/byoi/boot.ipxe"] in boots
    changed = block("quickstart.md", "set:deployed").strip()
    assert changed.removesuffix(",set:deployed") in conf  # one more word on its line
    path = tmp_path / "dnsmasq.conf"
    path.write_text(changed + "\n")
    assert "syntax check OK" in attempt("dnsmasq", "--test", f"--conf-file={path}").stderr


@pytest.mark.parametrize("sign", ["kernel vmlinuz", "#!ipxe\nexit"])
def test_the_ipxe_scripts_have_commands_of_ipxe_alone(sign):
    first, *rest = block("quickstart.md", sign.replace("\n", "\n    ")).splitlines()
    assert first == "#!ipxe"
    words = {line.split()[0] for line in rest if not line.startswith("#")}
    assert words <= {"kernel", "initrd", "boot", "exit", "set"}


def test_what_the_kernel_command_lines_of_the_guides_say_is_understood():
    known = {option.key for option in TABLE}
    for page in ("quickstart.md", "troubleshooting.md", "images.md"):
        given = re.findall(r"\bbyoi\.([a-z_.]+)=", (DOCS / page).read_text())
        assert {name for name in given if name not in known} == set(), page
    assert "byoi_rescue.ssh_key" in "".join(
        path.read_text() for path in (ROOT / "packaging/rescue").rglob("*") if path.is_file()
    )


def test_the_agent_answers_as_the_quick_start_says(site):
    status, body = curl(site, block("quickstart.md", "/healthz"))
    assert (status, json.loads(body)["status"]) == (200, "ok")


def test_the_quick_starts_job_is_one():
    job = parse_job(json.loads(block("quickstart.md", '"URL"')))
    assert (job.type, job.configdrive.enable, job.configdrive.hostname) == ("qcow2", True, NAME)


def test_a_job_is_posted_and_shown_as_the_quick_start_says(site):
    document = json.loads(block("quickstart.md", '"URL"'))
    image = site.image
    token, post = commands("quickstart.md", "-d @job.json")
    with serving(lambda request: request.file(image.data)) as web:
        job = document | {"URL": web.url + "/image.raw", "type": "raw", "checkSum": image.sha256}
        (site.directory / "job.json").write_text(json.dumps(job))
        assert curl(site, f"{token}; {post}") == (200, "null")
        site.agent.wait_for("done")
    status, body = curl(site, f"{token}; {block('quickstart.md', '/v1/status').strip()}")
    assert (status, json.loads(body)["status"]) == (200, "done")
    assert curl(site, f"{token}; {post.replace('-d @job.json', '-X DELETE')}")[0] == 200


@pytest.mark.parametrize(
    ("status", "command"),
    [
        (401, "curl -k https://{name}:9443/v1/status"),
        (401, "curl -k -H 'Authorization: Bearer wrong' https://{name}:9443/v1/status"),
        (403, "curl -k {auth} -H 'Origin: https://other.example' https://{name}:9443/v1/status"),
        (404, "curl -k {auth} https://{name}:9443/dedicated/server/ns2/bringYourOwnImage"),
        (415, "curl -k {auth} -d '{{}}' https://{name}:9443{deployment}"),
    ],
)
def test_answers_mean_what_troubleshooting_says(site, status, command):
    page = (DOCS / "troubleshooting.md").read_text()
    assert f"| {status}" in page
    auth = f"-H 'Authorization: Bearer {(site.overlay / 'token').read_text().strip()}'"
    assert curl(site, command.format(name=NAME, auth=auth, deployment=DEPLOYMENT))[0] == status


def test_check_lists_all_faults_with_their_places_as_troubleshooting_says(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text('service_nam = "ns1"\n[api]\nlisten = 4\n')
    checked = attempt(Path(sys.executable).parent / "byoi-agent", "--check", "--config", config)
    assert checked.returncode == 2
    assert "service_nam" in checked.stderr
    assert "api.listen" in checked.stderr
    assert str(config) in checked.stderr


def test_every_code_that_troubleshooting_names_is_one_of_the_catalogue():
    catalogue = set(re.findall(r"^\| `([a-z_.]+)` \|", (DOCS / "errors.md").read_text(), re.MULTILINE))
    page = (DOCS / "troubleshooting.md").read_text() + (DOCS / "images.md").read_text()
    named = set(re.findall(r"`((?:image|disk|boot|checksum|job|agent|gpt|configdrive)\.[a-z_]+)`", page))
    assert len(named) > 10
    assert named - catalogue == {"configdrive.enable"}  # a member of a job


def test_a_page_is_named_html_and_refused_as_troubleshooting_says(byoi, tmp_path):
    page = tmp_path / "login.raw"
    page.write_text("<!DOCTYPE html><html>Please log in</html>")
    ended = byoi(
        "write",
        "--url",
        page.as_uri(),
        "--type",
        "raw",
        "--disk",
        tmp_path / "d.img",
        "--size",
        "1G",
        "--json",
    )
    assert (ended.error["code"], "`html`" in ended.error["message"]) == ("image.no_table", True)


def test_the_commands_of_the_image_guide_work(byoi, tmp_path):
    """qemu-img, then the dry run that says what would be done and makes no file."""
    make_image(tmp_path)
    convert, write = commands("images.md", "qemu-img convert")
    done = shell(convert, tmp_path)
    assert done.returncode == 0, done.stderr
    words = write.replace("./image.qcow2", f"file://{tmp_path}/image.qcow2").split()[1:]
    words[words.index("trial.img")] = str(tmp_path / "trial.img")
    dry = byoi(*words)
    assert "zero both its ends" in dry.out + dry.err
    assert not (tmp_path / "trial.img").exists()


def test_raw_zst_is_made_and_deployed_as_the_image_guide_says(byoi, tmp_path):
    make_image(tmp_path)
    command = re.search(r"`(zstd [^`]+)`", (DOCS / "images.md").read_text())[1]
    assert shell(command.replace("-19", "-3"), tmp_path).returncode == 0
    url = (tmp_path / "image.raw.zst").as_uri()
    ended = byoi("write", "--url", url, "--type", "raw", "--disk", tmp_path / "d.img", "--size", "1G")
    assert ended.status == 0, ended.err


def test_pythons_that_are_too_old_are_refused_as_the_compatibility_page_says():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.11"' in text
    assert "3.10 and older" in (DOCS / "compatibility.md").read_text()
