"""Which paths can be believed: owners, modes and links, on the whole way."""

import os
from pathlib import Path

import pytest

from agent.errors import StateUnusable
from agent.service.config import trusted_path

NOBODY = 65534


def distrust(path: Path | str, *, may_be_link: bool = False) -> str:
    """What is said about a path; empty where it is believed."""
    found = trusted_path.distrust(path, may_be_link=may_be_link)
    return "" if found is None else str(found)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "below" / "file"
    path.parent.mkdir(mode=0o755)
    path.touch(mode=0o644)
    return path


def test_what_is_ours_and_ours_alone_to_write_is_believed_below_a_sticky_directory_too(file, tmp_path):
    tmp_path.chmod(0o1777)
    assert distrust(file) == ""
    assert distrust(file.parent) == ""


def test_what_is_not_there_is_for_whoever_opens_it(tmp_path):
    assert distrust(tmp_path / "absent" / "file") == ""
    assert distrust(tmp_path / "absent" / ".." / "file") == ""


@as_root
@pytest.mark.parametrize("whose", ["file", "below"])
def test_what_somebody_else_owns_is_not_believed_nor_what_is_below_it(file, whose):
    path = file if whose == "file" else file.parent
    os.chown(path, NOBODY, NOBODY)
    assert distrust(file) == (
        f"{path} belongs to the user nobody, who decides what is in it: look through it, or remove it, "
        f"then chown root: {path}"
    )


@as_root
def test_an_owner_without_a_name_is_told_by_number(file):
    os.chown(file, 12345, 0)
    assert "belongs to a user without a name (uid 12345)" in distrust(file)


@pytest.mark.parametrize(
    ("mode", "who"),
    [(0o664, "its group"), (0o646, "every user"), (0o666, "its group and every user")],
)
@pytest.mark.parametrize("whose", ["file", "below"])
def test_what_others_may_write_is_not_believed_nor_what_is_below_it(file, whose, mode, who):
    path = file if whose == "file" else file.parent
    mode |= 0 if whose == "file" else 0o111
    path.chmod(mode)
    found = f"{path} can be written by {who} (mode {mode:04o}): look through it, then chmod go-w {path}"
    assert distrust(file) == found


def test_a_sticky_directory_is_no_place_for_what_is_the_directory_itself(file):
    file.parent.chmod(0o1777)
    assert distrust(file) == ""
    assert "can be written by its group and every user (mode 1777)" in distrust(file.parent)


def test_a_link_is_refused_where_it_is_the_end_and_followed_on_the_way(file, tmp_path):
    link, directory = tmp_path / "link", tmp_path / "directory"
    link.symlink_to(file)
    directory.symlink_to("below")
    assert distrust(link) == f"{link} is a link to {file}: name the file itself, or put it there"
    assert distrust(link, may_be_link=True) == ""
    assert distrust(directory / "file") == ""
    assert "is a link" in distrust(directory)


@pytest.mark.parametrize("target", ["below/file", "./below/../below/file", "@/below/file"])
def test_what_a_link_leads_to_is_looked_at_in_the_same_way(file, tmp_path, target):
    link = tmp_path / "link"
    link.symlink_to(target.replace("@", str(tmp_path)))
    file.parent.chmod(0o777)
    assert f"{file.parent} can be written" in distrust(link, may_be_link=True)


@as_root
def test_a_link_that_somebody_else_made_is_not_followed(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file.parent)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert f"{link} belongs to the user nobody" in distrust(link / "file")


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert distrust(tmp_path / "a" / "file") == ""


def test_a_relative_path_begins_where_the_agent_was_started(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    file.parent.chmod(0o777)
    assert f"{file.parent} can be written" in distrust("file")


def test_a_name_is_quoted_for_the_shell_and_shown_without_control_characters(tmp_path):
    path = tmp_path / "a file\x1b[2J"
    path.touch()
    path.chmod(0o666)
    found = distrust(path)
    assert found.isprintable()
    assert found.endswith("'")


def test_a_system_s_own_directories_and_links_are_believed():
    for path in ("/", "/etc/passwd", "/var/run", "/usr/bin/env"):
        assert distrust(path, may_be_link=True) == ""


# -- the state's directory -----------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("name", ["journal.json", "lock", "journal.json.20260101T000000Z.1"])
def test_what_somebody_else_left_in_a_directory_of_ours_is_not_believed(tmp_path, name):
    tmp_path.chmod(0o700)
    (tmp_path / name).touch(mode=0o600)
    trusted_path.require_own_state(tmp_path)
    os.chown(tmp_path / name, NOBODY, NOBODY)
    with pytest.raises(StateUnusable, match=f"{name} belongs to the user nobody") as caught:
        trusted_path.require_own_state(tmp_path)
    assert caught.value.hint.endswith(f"chown root: {tmp_path / name}")


def test_a_link_of_ours_in_the_directory_is_left_to_the_journal(tmp_path):
    (tmp_path / "journal.json").symlink_to("/etc/passwd")
    trusted_path.require_own_state(tmp_path)
