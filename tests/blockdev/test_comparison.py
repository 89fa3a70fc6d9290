"""Our own column of docs/comparison.md: that it is right in every case, and that the page says what came out."""

import re

import pytest

from tests.peers import table
from tests.peers.cases import CASES, Case
from tests.peers.judge import Outcome, what_is_on
from tests.peers.tools import TOOLS

OURS = TOOLS[0]
# A silent server is waited for for a minute: test_server_faults_end_to_end.py has it with a shorter limit.
QUICK = [case for case in CASES if case.name != "stalled"]


@pytest.fixture(scope="module")
def cells() -> dict[str, str]:
    """Our cells of the page, by the titles of their cases."""
    rows = re.findall(r"^\| ([^|]+) \| ([✓✗—] [^|]+) \|", table.PAGE.read_text(), re.MULTILINE)
    return {title: cell for title, cell in rows if "✓" in cell or "✗" in cell}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, table.File]:
    return table.make_files(tmp_path_factory.mktemp("peers"))


@pytest.mark.parametrize("case", QUICK, ids=[case.name for case in QUICK])
def test_nobody_is_deceived_and_the_page_says_so(case: Case, cells, files, tmp_path):
    environment = table.environment_of(tmp_path)
    outcome = table.try_out(OURS, case, files[case.image], environment, tmp_path)
    assert outcome.is_right(refused=case.refused), outcome
    assert cells[case.title] == table.cell_of(outcome, case)


def test_how_far_it_is_is_told(files, tmp_path):
    assert table.tells_percent(OURS, files["gpt"], table.environment_of(tmp_path), tmp_path).ended == "told"


def test_the_page_has_a_row_for_each_case(cells):
    assert {case.title for case in CASES} <= cells.keys()


@pytest.mark.parametrize(
    ("outcome", "refused", "right"),
    [
        (Outcome("done", "whole"), False, True),
        (Outcome("done", "part of the image, under its table"), False, False),
        (Outcome("done", "old data in its holes"), False, False),
        (Outcome("error", "part of the image, under its table"), False, False),
        (Outcome("error", "blank"), False, True),
        (Outcome("killed", "no first sector"), False, True),
        (Outcome("waits", "blank"), False, False),
        (Outcome("error", "blank"), True, False),
        (Outcome("done", "whole"), True, False),
        (Outcome("error", "untouched"), True, True),
        (Outcome("done", "whole", traces="a secret went elsewhere"), False, False),
    ],
)
def test_the_judge(outcome, refused, right):
    assert outcome.is_right(refused=refused) is right


def test_the_judge_tells_half_a_system_from_old_data_in_holes(files, tmp_path):
    image = files["gpt"].data
    old = b"\xa5" * len(image)
    half = image[: len(image) // 2] + old[len(image) // 2 :]
    assert what_is_on(tmp_path, half, old, image) == "part of the image, under its table"
    holes = files["sparse"].data
    dirty = bytearray(holes)
    at = holes.rindex(bytes(8192), 0, -(2 << 20)) & ~4095
    dirty[at : at + 4096] = old[:4096]
    assert what_is_on(tmp_path, bytes(dirty), old, holes) == "old data in its holes"
    assert what_is_on(tmp_path, old, old, image) == "untouched"


def test_the_page_is_made_anew_between_its_marks():
    page = f"before\n{table.BEGIN}\nold\n{table.END}\nbehind\n"
    assert table.published(page, "new") == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nbehind\n"
