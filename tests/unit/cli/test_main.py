"""The command line in this process: usage, job documents, help. What it deploys is for the other rings."""

import json
import re

import pytest

from agent.cli.commands import COMMANDS
from agent.cli.job_options import job_text
from agent.cli.main import main, make_parser
from agent.model.job import CHECKSUM_DIGITS
from agent.units import MiB

IMAGE = ("--url", "http://127.0.0.1:1/x", "--type", "raw")
DISK = ("--disk", "disk.img")


@pytest.fixture
def byoi(capsys, monkeypatch, tmp_path):
    """byoi(*arguments, stdin=b"") -> (exit status, stdout, stderr), in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        (tmp_path / "stdin").write_bytes(stdin)
        try:
            with (tmp_path / "stdin").open() as stream:
                monkeypatch.setattr("sys.stdin", stream)
                status = main(arguments)
        except SystemExit as leave:
            status = leave.code
        out, err = capsys.readouterr()
        assert [path.name for path in tmp_path.iterdir() if path.name == "disk.img"] == []
        return status, out, err

    return run


def test_the_version(byoi):
    status, out, _ = byoi("--version")
    assert status == 0
    assert re.fullmatch(r"byoi \d+\.\d+\.\d+(\.dev\d+)?\n", out)


@pytest.mark.parametrize("command", [(), *((command.name,) for command in COMMANDS)])
def test_help_tells_the_exit_statuses_and_fits_a_console(byoi, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    status, out, _ = byoi(*command, "--help")
    assert status == 0
    assert re.findall(r"^  (\d+) ", out, re.MULTILINE) == ["0", "1", "2", "3", "130"]
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize("command", ["", *(command.name for command in COMMANDS)])
def test_help_is_a_command_too(byoi, command):
    asked, option = byoi("help", *command.split()), byoi(*command.split(), "--help")
    assert asked == option


@pytest.mark.parametrize(("kind", "digits"), CHECKSUM_DIGITS.items())
def test_the_length_of_a_checksum_tells_its_type(kind, digits):
    options = make_parser().parse_args(["write", *IMAGE, "--checksum", "A" * digits])
    job = json.loads(job_text(options))
    assert (job["checkSumType"], job["checkSum"]) == (kind, "A" * digits)


def test_the_examples_can_be_pasted():
    """Each line of an example that goes on says so."""
    for line in make_parser().format_help().splitlines():
        assert not line.endswith("--disk")
    for command in COMMANDS:
        examples = command.examples.replace("\\\n", "").splitlines()
        assert examples
        assert all(line.split()[:2] == ["byoi", command.name] for line in examples)


USAGE = {
    "no command": ((), "required"),
    "unknown command": (("wipe",), "invalid choice"),
    "unknown option": (("write", "--zzz"), "unrecognized arguments: --zzz\n"),
    "no job": (("write", *DISK), "JOB.json"),
    "no disk": (("write", *IMAGE), "--disk"),
    "job and options": (("write", "job.json", "--hostname", "a", *DISK), "--hostname"),
    "absent job": (("write", "absent.json", *DISK), "absent.json: there is no such file"),
    "absent key": (("write", *IMAGE, *DISK, "--ssh-key", "absent.pub"), "absent.pub: there is no such file"),
    "directory": (("write", ".", *DISK), "Is a directory"),
    "bad size": (("write", *IMAGE, *DISK, "--size", "1X"), "'1X' is not a size"),
    "no size": (("write", *IMAGE, *DISK, "--size", "0"), "larger than zero"),
    "size of a group": (("write", *IMAGE, "--size", "1M", "--disk-group", "1"), "--size"),
    "header": (("write", *IMAGE, *DISK, "--header", "x"), "NAME:VALUE"),
    "metadata": (("write", *IMAGE, *DISK, "--meta", "x"), "NAME=VALUE"),
    "firmware": (("write", *IMAGE, *DISK, "--firmware", "x"), "--firmware"),
    "bad type": (
        ("write", "--url", "http://127.0.0.1:1/x", "--type", "qed", *DISK),
        "Bad format image, expected: qcow2, raw, ova. (--type)\nhint: Set type to one of them, or to vmdk, vhd,",
    ),
    "bad checksum": (
        ("write", *IMAGE, *DISK, "--checksum", "crc32:99"),
        "Bad checkSumType, expected: md5, sha1, sha256, sha512.",
    ),
    "a checksum that is nearly one": (
        ("write", *IMAGE, *DISK, "--checksum", "sha265:99"),
        "did you mean sha256?",
    ),
    "half a checksum": (("write", *IMAGE, *DISK, "--checksum", "sha256"), "--checksum: expected TYPE:HEX"),
    "a short checksum": (
        ("write", *IMAGE, *DISK, "--checksum", "md5:99"),
        "--checksum: must be 32 hexadecimal digits for md5, or the URL of a checksum file, got 2",
    ),
    "a bare checksum of no type's length": (
        ("write", *IMAGE, *DISK, "--checksum", "9" * 63),
        "--checksum: expected TYPE:HEX",
    ),
    "a fault of an option's value": (
        ("write", *IMAGE, *DISK, "--hostname", "a_b"),
        "--hostname: is not a host name",
    ),
    "no path": (("write", "--url", "", *DISK), "--url: '' is no URL"),
    "an empty option beside a document": (("write", "job.json", "--url", "", *DISK), "beside a job document"),
    "a type that is nearly one": (("write", *IMAGE[:2], "--type", "qcow", *DISK), "Did you mean qcow2?"),
    "a digest with other letters": (
        ("write", *IMAGE, *DISK, "--checksum", f"MD5:{'z' * 32}"),
        "got other characters",
    ),
    "an abbreviation": (("write", *IMAGE, *DISK, "--host", "a"), "did you mean --hostname?"),
    "a mistyped option": (("write", "--chksum=x"), "did you mean --checksum?"),
    "a mistyped option of no command": (("--verson",), "--verson; did you mean --version?"),
    "a mistyped command": (("wirte",), "did you mean write?"),
    "help of a mistyped command": (("help", "wirte"), "did you mean write?"),
    "negative group": (("write", *IMAGE, "--disk-group", "-1"), "Disk group -1 does not exist"),
    "hint without a value": (("write", *IMAGE, "--disk-hint", "serial"), "--disk-hint: expected KEY=VALUE"),
    "hint twice": (("write", *IMAGE, *("--disk-hint", "size=1") * 2), "--disk-hint: size is given twice"),
    "unknown hint": (("write", *IMAGE, "--disk-hint", "seriel=1"), "--disk-hint.seriel: is an unknown key"),
    "hint of no size": (
        ("deploy", *IMAGE, "--disk-hint", "size=big"),
        "--disk-hint.size: must name a whole number",
    ),
    "hint that looks like equality": (("write", *IMAGE, "--disk-hint", "size==400"), "write size=VALUE"),
    "hint beside a disk": (("write", *IMAGE, *DISK, "--disk-hint", "size=1"), "stands beside --disk;"),
    "hint beside a group": (
        ("deploy", *IMAGE, "--disk-group", "1", "--disk-hint", "size=1"),
        "stands beside --disk-group;",
    ),
    "no url": (("write", "--url", "absent.raw", "--type", "raw", *DISK), "'absent.raw' is no URL"),
    "ftp": (("write", "--url", "ftp://a.example/x", "--type", "raw", *DISK), "URL"),
}


@pytest.mark.parametrize("usage", USAGE)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(byoi, usage):
    arguments, told = USAGE[usage]
    status, out, err = byoi(*arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert err.startswith("error: ") or err.endswith("--help`.\n")


BROKEN = {
    "nothing": b"",
    "half": b'{"URL": "http://a',
    "list": b"[]",
    "null": b"null",
    "text": b'"x"',
    "no utf-8": b'{"URL": "\xff\xfe"}',
    "no members": b"{}",
    "deep": b"[" * 100_000,
    "twice": b'{"URL": "http://a.example/x", "type": "raw", "type": "raw"}',
    "nan": b'{"URL": "http://a.example/x", "type": "raw", "diskGroupId": NaN}',
    "surrogate": b'{"URL": "http://a.example/x", "type": "raw", "description": "\\ud800"}',
    "too large": b'{"URL": "http://a.example/x", "type": "raw", "description": "' + b"x" * 25 * MiB + b'"}',
    "long number": b'{"URL": "http://a.example/x", "type": "raw", "diskGroupId": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("document", BROKEN)
def test_what_is_no_job(byoi, document):
    status, out, err = byoi("write", "-", *DISK, "--json", stdin=BROKEN[document])
    assert status == 2
    assert err.startswith("error: ")
    printed = json.loads(out)
    assert {"servername", "status", "message", "checksum", "error"} == set(printed)
    assert printed["status"] == "error"
    assert printed["error"]["code"] == "job.invalid"
    assert printed["error"]["faults"]
    assert len(err) < 2000


def test_user_data_that_json_cannot_carry_is_refused(byoi, tmp_path):
    (tmp_path / "data").write_bytes(b"#!/bin/sh\n\xff\n")
    status, _, err = byoi("write", *IMAGE, *DISK, "--user-data", "data")
    assert status == 2
    assert "data is not UTF-8 at byte 10" in err
