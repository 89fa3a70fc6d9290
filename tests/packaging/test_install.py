"""The package on a plain Debian, of each release, without any network: installed, used, upgraded under way, removed."""

import hashlib
import json
import subprocess

import pytest

from agent import __version__

pytestmark = pytest.mark.timeout(600)  # the first one builds the system that is installed into

# What the version says of the release: that of the later one is the higher.
RELEASE = {"bookworm": "", "trixie": "+deb13"}

DEPLOY = (
    "byoi write --url {url} --type raw --checksum sha256:{sha256} --hostname plain"
    " --disk /root/disk --size 64M --json"
)

# Sends three quarters of the image, which is more than is examined before the first write, and waits.
SERVER = """
import http.server, pathlib, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        image = pathlib.Path("/root/image.raw").read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(image)))
        self.end_headers()
        cut = len(image) // 4 * 3
        self.wfile.write(image[:cut])
        pathlib.Path("/root/under-way").touch()
        while not pathlib.Path("/root/go-on").exists():
            time.sleep(0.05)
        self.wfile.write(image[cut:])

http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""

UPGRADE = """
python3 /root/server.py 2>/dev/null &
until python3 -c "import socket; socket.create_connection(('127.0.0.1', 8080)).close()" 2>/dev/null; do sleep 0.1; done
{deploy} >/root/status.json 2>/root/said &
writer=$!
while [ ! -e /root/under-way ]; do kill -0 $writer && sleep 0.1; done
dpkg --install "/root/$1" >/dev/null
# As if no file of the former version had stayed.
rm -rf /usr/lib/byoi-agent/dist
ls -d /usr/lib/byoi-agent/live-*
touch /root/go-on
wait $writer || {{ cat /root/said; exit 1; }}
/usr/lib/byoi-agent/prune
echo pruned
ls -d /usr/lib/byoi-agent/live-*
"""


def put_image(room, image) -> str:
    """The image into the room; its SHA-256."""
    content = image.read_bytes()
    (room.root / "root/image.raw").write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def assert_deployed(room) -> None:
    def sgdisk(what: str) -> str:
        command = ["sgdisk", what, str(room.root / "root/disk")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "No problems found" in sgdisk("--verify")
    rows = [line.split() for line in sgdisk("--print").splitlines()]
    assert [row[-1] for row in rows if row and row[0].isdigit()] == ["data", "config-2"]


def test_a_plain_debian_installs_it_deploys_with_it_and_is_as_before_after_the_purge(
    room, suite, package, small_image
):
    depends = subprocess.run(
        ["dpkg-deb", "--field", str(package), "Depends"], capture_output=True, text=True, check=True
    ).stdout
    wanted = " ".join(part.split()[0] for part in depends.split(","))
    room.must(f"apt-get -qq --yes --no-install-recommends --no-download install {wanted} >/dev/null 2>&1")
    before = room.files()

    room.install(package)
    assert room.must("byoi --version") == f"byoi {__version__}\n"
    assert room.must("byoi-agent --version") == f"byoi-agent {__version__}\n"
    installed = room.must("dpkg-query --show --showformat='${Version}' byoi-agent")
    assert installed == __version__.replace(".dev", "~dev") + RELEASE[suite]
    # As a member of nothing: what is installed may be read by all, and bytecode is there already.
    room.must("setpriv --reuid=65534 --regid=65534 --clear-groups byoi --help >/dev/null")
    assert room.must("find /usr/lib/byoi-agent/live-* -path '*/agent/cli/__pycache__/main.*.pyc'") != ""
    assert room.must("getent group byoi").startswith("byoi:")
    assert room.run("systemctl is-enabled byoi-agent.service").stdout.strip() == "disabled"

    verified = room.run("systemd-analyze verify --man=no byoi-agent.service byoi-console@tty1.service 2>&1")
    assert (verified.stdout, verified.returncode) == ("", 0)
    room.must("systemd-sysusers --dry-run byoi-agent.conf")

    sha256 = put_image(room, small_image())
    said = room.must(DEPLOY.format(url="file:///root/image.raw", sha256=sha256))
    assert json.loads(said)["status"] == "done"
    assert_deployed(room)

    room.must("echo 'service_name = \"ns1.example.net\"' >>/etc/byoi-agent/agent.toml")
    room.must("apt-get -qq --yes remove byoi-agent >/dev/null 2>&1")
    assert room.run("command -v byoi").returncode != 0
    assert "ns1.example.net" in room.must("cat /etc/byoi-agent/agent.toml"), (
        "removal keeps what was configured"
    )
    room.must("apt-get -qq --yes purge byoi-agent >/dev/null 2>&1")
    assert room.files() == before
    assert room.run("getent group byoi").returncode != 0
    assert "byoi" not in room.must("dpkg --list")


def test_it_works_before_it_is_configured_and_a_broken_environment_is_mended(room, package):
    room.install(package)
    live = room.must("ls -d /usr/lib/byoi-agent/live-*").strip()
    room.must("rm -rf /usr/lib/byoi-agent/live-*")
    assert room.must("byoi --version").startswith("byoi ")
    room.must(f"mkdir {live}")
    assert room.run("byoi --version").returncode != 0
    room.must(f"dpkg --install /root/{package.name}")
    assert room.must("byoi --version").startswith("byoi ")


def test_an_upgrade_leaves_a_running_deployment_its_files(room, package, next_package, small_image):
    room.install(package)
    sha256 = put_image(room, small_image())
    (room.root / "root/server.py").write_text(SERVER)
    (room.root / "root" / next_package.name).write_bytes(next_package.read_bytes())
    deploy = DEPLOY.format(url="http://127.0.0.1:8080/image.raw", sha256=sha256)

    during, after = room.must(UPGRADE.format(deploy=deploy), next_package.name).split("pruned\n")
    assert len(during.split()) == 2, "the environment of the running deployment, and the new one"
    assert len(after.split()) == 1
    assert "+later-" in after
    assert json.loads((room.root / "root/status.json").read_text())["status"] == "done"
    assert_deployed(room)
    assert "+later" in room.must("dpkg-query --show byoi-agent")
