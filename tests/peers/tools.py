"""The columns of the table: how each tool is told to put an image onto a disk, as its own documents have it.

A command is a script of bash that is handed its image and its disk by the environment: URL, SHA256, DISK, KIND (raw or
qcow2), STAGE (an empty directory), PYTHON, BENCH (tests/bench), IPA (an interpreter with ironic-python-agent).
"""

from dataclasses import dataclass

_HASHED = """\
mkfifo "$STAGE/copy"
openssl dgst -sha256 -r <"$STAGE/copy" >"$STAGE/digest" &
curl -{flags} "$URL" | tee "$STAGE/copy" | dd of="$DISK" oflag=direct bs=1M iflag=fullblock conv=fsync status=none
wait $!
grep -q "^$SHA256 " "$STAGE/digest"
"""
_OURS = '"$PYTHON" -m agent.cli write --url "$URL" --checksum "sha256:$SHA256" --disk "$DISK" --yes '


@dataclass(frozen=True)
class Tool:
    """One column."""

    name: str
    script: str
    version: str
    """A command that tells it, on its first line."""
    qcow2: str = ""
    """How it is given a qcow2; empty: it writes any file as it is."""
    header: str = ""
    """How it is given `X-Secret: s3cret` for the image; empty: it takes no header."""
    hangs: bool = False
    """Seen to wait for ever where nothing was wrong: it is run again then, a few times."""
    percent: str = ""
    """How it tells whoever called it how far it is; empty: not at all."""


TOOLS = (
    Tool(
        "byoi-agent",
        f"{_OURS} --quiet",
        '"$PYTHON" -m agent.cli --version',
        qcow2=f"{_OURS} --quiet",
        header=f'{_OURS} --quiet --header "X-Secret: s3cret"',
        percent=f"{_OURS}",
    ),
    Tool(
        "ironic-python-agent's writer",
        '"$IPA" "$BENCH/ipa_writer.py" "$URL" "$SHA256" "$DISK"\nsync "$DISK"',
        '"$IPA" -m pip show ironic-python-agent | sed -n "s/Version: //p"',
    ),
    Tool(
        "curl, tee, openssl, dd",
        _HASHED.format(flags="sf"),
        "curl --version",
        header=_HASHED.format(flags='sfL -H "X-Secret: s3cret"'),
        percent=_HASHED.format(flags="f#"),
    ),
    Tool(
        "qemu-img convert",
        'qemu-img convert -n -t none -W -f "$KIND" -O raw "$URL" "$DISK"\nsync "$DISK"',
        "qemu-img --version",
        hangs=True,  # 7.2, for one of its own requests
        qcow2='qemu-img convert -n -t none -W -f "$KIND" -O raw "$URL" "$DISK"\nsync "$DISK"',
        percent='qemu-img convert -p -n -t none -W -f "$KIND" -O raw "$URL" "$DISK"',
    ),
    Tool(
        "nbdcopy, nbdkit curl",
        'nbdcopy --flush -- [ nbdkit curl "$URL" ] "$DISK"',
        "nbdcopy --version",
        header='nbdcopy --flush -- [ nbdkit curl "$URL" followlocation=true header="X-Secret: s3cret" ] "$DISK"',
        percent='nbdcopy --progress=1 --flush -- [ nbdkit curl "$URL" ] "$DISK"',
    ),
    Tool(
        "bmaptool copy --nobmap",
        'bmaptool --quiet copy --nobmap "$URL" "$DISK"',
        "bmaptool --version",
        percent='bmaptool copy --nobmap "$URL" "$DISK"',
    ),
)
