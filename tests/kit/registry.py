"""Registries: Debian's docker-registry over TLS, what oras and skopeo push to it, and one in this process that lies.

The real one is started with `docker_registry`; its users are in a file for htpasswd, or come with tokens of
`TokenService`, signed as Docker's own service signs them. `Shelf` holds documents and blobs and answers as a registry
does; a test changes what it does not like.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import socket
import ssl
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import oras.client
import trustme
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from agent.formats.oci.vouchers import BUNDLE, SIMPLE
from tests.kit.commands import run
from tests.kit.server import Request

USER, PASSWORD = "puller", "s3cret-canary"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
HTPASSWD = f"{USER}:$2b$04$9hv0lVgDZJr1oG4nl2JVyO7zhcSzmwt5.lgWrP/x/iWs91BZWyETe\n"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ISSUER, SERVICE = "byoi-test-issuer", "byoi-test-registry"
START_SECONDS = 30


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(data: bytes, media_type: str = "application/octet-stream", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


def manifest(*layers: Mapping[str, Any], **more: Any) -> bytes:
    config = descriptor(b"{}", "application/vnd.oci.empty.v1+json")
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, **more}
    return json.dumps(document).encode()


def index(*entries: Mapping[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


def entry(
    data: bytes, architecture: str | None = None, media_type: str = MANIFEST, **more: Any
) -> dict[str, Any]:
    platform = {} if architecture is None else {"platform": {"architecture": architecture, "os": "linux"}}
    return descriptor(data, media_type, **platform, **more)


def container_layer(name: str, content: bytes, *, packed: bool = True, **others: bytes) -> bytes:
    """A layer as `FROM scratch; ADD ... /disk/` makes it; `others` are further disks there."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        directory = tarfile.TarInfo("disk")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        for path, data in (
            {name: content} | {f"disk/{other}.img": data for other, data in others.items()}
        ).items():
            member = tarfile.TarInfo(path)
            member.size, member.uid, member.gid = len(data), 107, 107
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(stream.getvalue(), 1, mtime=0) if packed else stream.getvalue()


def simple_signature(
    digest: str, sign: Callable[[bytes], bytes], **critical: Any
) -> tuple[dict[str, Any], bytes]:
    """The layer and the payload of a signature as `cosign sign --key` makes them up to version 2."""
    members = {
        "identity": {"docker-reference": "registry.example.net/team/web"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    payload = json.dumps({"critical": members | critical, "optional": None}).encode()
    signature = base64.b64encode(sign(payload)).decode()
    annotations = {"dev.cosignproject.cosign/signature": signature}
    return descriptor(payload, SIMPLE, annotations=annotations), payload


def bundle_signature(
    digest: str, sign: Callable[[bytes], bytes], predicate_type: str = "https://sigstore.dev/cosign/sign/v1"
) -> bytes:
    """A bundle as `cosign sign --key` makes it from version 3 on."""
    kind = "application/vnd.in-toto+json"
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}, "annotations": {}}],
        "predicateType": predicate_type,
        "predicate": {},
    }
    payload = json.dumps(statement).encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
        "signatures": [{"sig": base64.b64encode(sign(signed)).decode()}],
    }
    material = {"publicKey": {"hint": "whatever"}}
    return json.dumps(
        {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
    ).encode()


def bundle_artifact(bundle: bytes, subject: Mapping[str, Any]) -> bytes:
    """The manifest by which a bundle refers to an image."""
    return manifest(descriptor(bundle, BUNDLE), artifactType=BUNDLE, subject=subject)


# -- in this process ---------------------------------------------------------------------------------------------


@dataclass
class Shelf:
    """The documents and blobs of one repository, served by `answer`."""

    repository: str = "team/web"
    manifests: dict[str, bytes] = field(default_factory=dict)
    """By tag and by digest."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    referrers: dict[str, bytes] = field(default_factory=dict)
    """By digest; a registry without any does not know the API."""
    pages: dict[str, tuple[bytes, Mapping[str, str]]] = field(default_factory=dict)
    """Of lists of referrers, with their headers, by the target of the request."""

    def put_blob(self, data: bytes) -> bytes:
        self.blobs[sha256(data)] = data
        return data

    def put(self, document: bytes, tag: str | None = None) -> str:
        """Keep a manifest or an index; returns its digest."""
        self.manifests[sha256(document)] = document
        if tag is not None:
            self.manifests[tag] = document
        return sha256(document)

    def put_disk(self, data: bytes, tag: str | None = "1") -> str:
        """Keep a file as an artifact with one layer."""
        return self.put(manifest(descriptor(self.put_blob(data))), tag)

    def answer(self, request: Request) -> None:
        """As a registry does that asks nobody who he is."""
        if request.target in self.pages:
            body, headers = self.pages[request.target]
            request.reply(200, body, Content_Type=INDEX, **headers)
            return
        kind, _, name = urlsplit(request.target).path.removeprefix(f"/v2/{self.repository}/").partition("/")
        held = {"manifests": self.manifests, "blobs": self.blobs, "referrers": self.referrers}.get(kind, {})
        if name not in held:
            request.reply(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
        elif kind == "blobs":
            request.file(held[name], etag=f'"{name}"')
        else:
            request.reply(200, held[name], Content_Type=MANIFEST)


# -- tokens ------------------------------------------------------------------------------------------------------


@dataclass
class TokenService:
    """Gives tokens for pulling and pushing: to whoever has the password, or only for pulling, to anybody."""

    authority: trustme.CA
    anonymous: bool = False
    seconds: int = 300
    """For which a token is good."""
    asked: list[dict[str, list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        issued = self.authority.issue_cert("token.example.net", key_type=trustme.KeyType.RSA)
        self._key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        certificate = load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]

    def answer(self, request: Request) -> None:
        """As Docker's token service does."""
        query = parse_qs(urlsplit(request.target).query)
        self.asked.append(query)
        header = request.header("Authorization")
        known = header == f"Basic {BASIC}"
        if not known and not (self.anonymous and header is None):
            request.reply(401, b'{"errors": [{"code": "UNAUTHORIZED"}]}')
            return
        body = json.dumps({"token": self._token(query.get("scope", []), pull_only=not known)}).encode()
        request.reply(200, body, Content_Type="application/json")

    def _token(self, scopes: Sequence[str], *, pull_only: bool) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = (
                scope.rsplit(":", 2)[0].partition(":")[0],
                scope.split(":")[1],
                scope.split(":")[-1],
            )
            granted = [word for word in actions.split(",") if word == "pull" or not pull_only]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": ISSUER, "sub": USER, "aud": SERVICE, "exp": now + self.seconds, "nbf": now - 60, "iat": now - 60,
            "jti": os.urandom(8).hex(), "access": access,
        }  # fmt: skip
        head = {"typ": "JWT", "alg": "RS256", "x5c": self._chain}
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        return b".".join((signed, _base64url(self._key.sign(signed, PKCS1v15(), SHA256())))).decode()  # type: ignore[union-attr, call-arg, arg-type]


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


# -- Debian's ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registry:
    """A docker-registry that runs."""

    port: int
    directory: Path
    ca_file: str | None
    user: str | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, reference: str) -> str:
        return f"{'oci+http' if self.ca_file is None else 'oci'}://{self.host}/{reference}"

    @property
    def blobs(self) -> Path:
        """Where it keeps them."""
        return self.directory / "data/docker/registry/v2/blobs/sha256"

    def push(self, reference: str, *files: Path, **annotations: str) -> None:
        """Push files as an artifact, one layer each, by oras."""
        client = oras.client.OrasClient(
            hostname=self.host,
            insecure=self.ca_file is None,
            tls_verify=self.ca_file or True,
            auth_backend="basic",
        )
        if self.user is not None:
            # At once: a registry hangs up on a long body of whom it does not know, before it has asked for a name.
            client.auth.set_basic_auth(USER, PASSWORD)
            client.set_header("Authorization", f"Basic {BASIC}")
        done = client.push(
            target=f"{self.host}/{reference}",
            files=[str(path) for path in files],
            disable_path_validation=True,
            manifest_annotations=annotations or None,
        )
        assert done.status_code == 201, done.text

    def put(self, reference: str, document: bytes, *blobs: bytes) -> None:
        """Push a manifest and its blobs by the API, as they are: for what no tool here makes."""
        repository, _, tag = reference.partition(":")
        for blob in (b"{}", *blobs):
            where = self._request("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
            self._request("PUT", f"{where}{'&' if '?' in where else '?'}digest={sha256(blob)}", blob)
        self._request("PUT", f"/v2/{repository}/manifests/{tag}", document)

    def _request(self, method: str, url: str, body: bytes = b"") -> Any:
        context = ssl.create_default_context(cafile=self.ca_file)
        kind = (
            json.loads(body).get("mediaType", MANIFEST)
            if "/manifests/" in url
            else "application/octet-stream"
        )
        headers = {"Content-Type": kind} | ({} if self.user is None else {"Authorization": f"Basic {BASIC}"})
        url = url if "://" in url else f"{'http' if self.ca_file is None else 'https'}://{self.host}{url}"
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, context=context) as answer:
            return answer

    def copy(self, layout: Path, reference: str, *options: str) -> None:
        """Push an OCI layout by skopeo."""
        words = ["--dest-tls-verify=false"] if self.ca_file is None else ["--dest-cert-dir", self.directory]
        words += [] if self.user is None else ["--dest-creds", f"{USER}:{PASSWORD}"]
        run(
            *("skopeo", "--insecure-policy", "copy", "--quiet", *words, *options),
            *(f"oci:{layout}", f"docker://{self.host}/{reference}"),
        )


def write_layout(path: Path, top: bytes, media_type: str, *others: bytes) -> Path:
    """An OCI layout on disk with a manifest or an index at its top, and the documents and blobs below it."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)
    for data in (top, b"{}", *others):
        (blobs / sha256(data).removeprefix("sha256:")).write_bytes(data)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_bytes(index(descriptor(top, media_type)))
    return path


def image_config(*layers: bytes) -> bytes:
    """The config of a container image; skopeo wants to know what the layers unpack to."""
    unpacked = [gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer for layer in layers]
    rootfs = {"type": "layers", "diff_ids": [sha256(data) for data in unpacked]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {}}).encode()


@contextmanager
def docker_registry(
    directory: Path, authority: trustme.CA | None, *, users: bool = False, tokens: str | None = None
) -> Iterator[Registry]:
    """A registry while the block runs.

    Args:
        directory: an empty one for all that it keeps.
        authority: has the certificate for it; None: plain http.
        users: whether `USER` alone may come in, by his password.
        tokens: the URL of a token service, whose certificates are of the authority.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    http: dict[str, Any] = {"addr": f"127.0.0.1:{port}", "secret": "of a test"}
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": http,
    }
    ca_file = None
    if authority is not None:
        ca_file = str(directory / "ca.crt")
        authority.cert_pem.write_to_path(ca_file)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(directory / "tls.pem")
        )
        http["tls"] = {"certificate": str(directory / "tls.pem"), "key": str(directory / "tls.pem")}
    if users:
        (directory / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "byoi", "path": str(directory / "htpasswd")}}
    if tokens is not None:
        bundle = {"realm": tokens, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": ca_file}
        config["auth"] = {"token": bundle}
    (directory / "config.yml").write_text(json.dumps(config))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(directory / "config.yml")], stdout=log, stderr=log
        )
    try:
        registry = Registry(port, directory, ca_file, USER if users or tokens else None)
        _wait_for(registry, process)
        yield registry
    finally:
        process.terminate()
        process.wait()


def _wait_for(registry: Registry, process: subprocess.Popen[bytes]) -> None:
    context = None if registry.ca_file is None else ssl.create_default_context(cafile=registry.ca_file)
    url = f"{'http' if context is None else 'https'}://{registry.host}/v2/"
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, context=context):
                return
        except urllib.error.HTTPError:
            return  # it wants to know who asks
        except OSError:
            assert process.poll() is None, (registry.directory / "log").read_text()
            assert time.monotonic() < deadline, (registry.directory / "log").read_text()
            time.sleep(0.05)
