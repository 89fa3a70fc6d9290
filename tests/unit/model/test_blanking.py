"""Secrets in what others wrote: known ones in every form, unknown ones by what stands around them."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.blanking import blank

CANARY = "canary-of-the-user"


@pytest.mark.parametrize(
    "text",
    [
        f"GET https://user:{CANARY}@images.example.net/x?sig={CANARY}&b={CANARY}#{CANARY} failed",
        f"fetching oci://me:{CANARY}@registry.example.net/a:b",
        f"Authorization: Bearer {CANARY}",
        f'{{"headers": {{"Authorization": "Basic {CANARY}", "x": 1}}}}',
        f"sent header X-Auth-Token: {CANARY}",
        f"Cookie: a={CANARY}; b={CANARY}",
        f"auth=bearer {CANARY} done",
        f"Command line: quiet systemd.set_credential=api.token:{CANARY} root=/dev/ram0",
        f'systemd.set_credential_binary=receipt.key:{CANARY} x "set_credential=a.b:{CANARY} {CANARY}"',
        f"SetCredential=control_plane.token:{CANARY}",
        f"ipa-agent-token={CANARY} ipa-api-url=https://ironic.example.net",
        f'{{"password": "{CANARY} and \\" more {CANARY}", "passwd": "{CANARY}"}}',
        f"password: {CANARY}",
        f"registry_secret='{CANARY} {CANARY}'",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\nand cut",
    ],
)
def test_what_looks_like_a_secret_is_blanked(text):
    assert CANARY not in blank(text)


@pytest.mark.parametrize(
    "text",
    [
        "sd 0:0:0:0: [sda] 976773168 512-byte logical blocks",
        '{"event": "stage_began", "stage": "write"}',
        'api.token_file="/etc/byoi-agent/token"',
        "fetched https://images.example.net/debian-13.qcow2 (404)",
        '{"agentToken": null, "password": "***", "hasSecret": false}',
    ],
)
def test_what_is_none_stays(text):
    assert blank(text) == text


@pytest.mark.parametrize("secret", ["tok/en+with=signs?", 'quo"ted\\secret', "sécret-key", " padded-secret "])
def test_a_known_secret_is_found_in_every_form(secret):
    bare = secret.strip()
    forms = [bare, json.dumps(bare), quote(bare, safe=""), base64.b64encode(bare.encode()).decode()]
    text = blank("\n".join(f"a {form} b" for form in forms), [secret])
    assert [form for form in forms if form.strip('"') in text] == []
    assert text.count("***") >= len(forms)


def test_each_line_of_a_known_key_is_blanked_and_a_short_word_is_not():
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\nBCIEIJ1hsZ3v\n-----END PRIVATE KEY-----\n"
    assert blank("x MC4CAQAwBQYDK2Vw y BCIEIJ1hsZ3v z", [key]) == "x *** y *** z"
    assert blank("a disk", ["disk"]) == "a disk"


@given(st.text(max_size=300))
def test_any_text_is_taken(text):
    blank(text, ["a-known-secret"])


@pytest.mark.parametrize(
    "piece", ["a", "a.", "token", '"', '"a.', "-----BEGIN PRIVATE KEY-----", "https://", "basic ", "=", '\\"']
)
def test_a_long_text_of_one_kind_takes_no_square_of_its_length(piece):
    """Where it did, this would not end."""
    blank(piece * (200_000 // len(piece)), ["a-known-secret"])
