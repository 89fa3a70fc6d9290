"""A running daemon, and an image for it to deploy."""

from contextlib import ExitStack

import pytest
import trustme

from tests.kit.agent_process import agent_process
from tests.kit.commands import run
from tests.kit.disks import make_disk
from tests.kit.images import make_image
from tests.kit.server import serving

TOKEN = "correct-horse-battery"
APPLICATION_KEY, APPLICATION_SECRET, CONSUMER_KEY = (
    "app-key",
    "secret-of-the-application",
    "key-of-the-consumer",
)


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def disk(tmp_path):
    return make_disk(tmp_path / "disk.img")


@pytest.fixture
def make_agent(tmp_path, disk):
    """A function `make(**options)`: a daemon for one disk, not started. Ended with the test."""
    with ExitStack() as stack:

        def make(**options):
            options.setdefault("disks", (disk,))
            return stack.enter_context(agent_process(tmp_path / "agent", **options))

        yield make


@pytest.fixture
def web(image):
    """A server whose `answer` a test may replace: the whole image to begin with."""

    def whole(request):
        request.file(image.data)

    with serving(whole) as server:
        yield server


@pytest.fixture
def slow_web(image):
    """A server that sends the image slowly: a second or so for each MiB behind what is examined first."""
    with serving(lambda request: request.file(image.data, pause=0.25)) as server:
        yield server


@pytest.fixture
def frozen(tmp_path):
    """A filesystem whose writes hang while it is frozen: `freeze()` and `thaw()`, and the path of a disk on it."""
    backing, where = make_disk(tmp_path / "backing.img", 64 * 1024 * 1024, b"\0"), tmp_path / "mounted"
    where.mkdir()
    run("mkfs.ext4", "-q", backing)
    run("mount", "-o", "loop", backing, where)
    disk = make_disk(where / "disk.img")
    is_frozen = False

    def freeze():
        nonlocal is_frozen
        run("fsfreeze", "--freeze", where)
        is_frozen = True

    def thaw():
        nonlocal is_frozen
        run("fsfreeze", "--unfreeze", where)
        is_frozen = False

    yield disk, freeze, thaw
    if is_frozen:
        thaw()
    run("umount", "--lazy", where)


@pytest.fixture(scope="session")
def authority():
    """A CA for everything that speaks TLS here."""
    return trustme.CA()


@pytest.fixture
def make_tls_agent(make_agent, authority, tmp_path):
    """A function `make(**options)`: a running daemon that also listens on TLS and takes every kind of credential."""

    def secret(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o600)
        return path

    def make(crl=None, **options):
        cert = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        config = f"""
[api]
socket = "@SOCKET@"
listen = "127.0.0.1:0"
tls_cert = "{secret("tls.crt", cert.cert_chain_pems[0].bytes())}"
tls_key = "{secret("tls.key", cert.private_key_pem.bytes())}"
client_ca = "{tmp_path / "ca.pem"}"
{f'client_crl = "{crl}"' if crl else ""}
token_file = "{secret("token", TOKEN)}"
[api.ovh]
application_key = "{APPLICATION_KEY}"
application_secret_file = "{secret("application", APPLICATION_SECRET)}"
consumer_key_file = "{secret("consumer", CONSUMER_KEY)}"
"""
        return make_agent(config=config + options.pop("config", ""), **options).start()

    return make
