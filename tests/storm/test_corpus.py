"""Every file that fuzzing has kept is read again, and judged as the images storm judges. No fuzzer is needed."""

from pathlib import Path

import pytest

from agent.units import MiB
from tests.storm import corpus
from tests.storm.images import Storm
from tests.storm.subject import Subject
from tests.storm.subjects import make_samples, subjects

ARCHIVES = sorted(corpus.DIRECTORY.glob("*.zip"))


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("samples")
    make_samples(directory, corpus.CONTENT)
    return directory


@pytest.fixture(scope="session")
def known(samples: Path) -> dict[Path, Subject]:
    return {corpus.path_of(subject): subject for subject in subjects(samples)}


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.stem)
def test_what_was_kept_is_read_rightly(path: Path, known: dict[Path, Subject], tmp_path: Path):
    storm = Storm(tmp_path, [])
    kept = corpus.load(path)
    assert kept
    for data in kept:
        corpus.replay(storm, known[path], data)


def test_every_file_has_a_subject_and_all_are_small(known: dict[Path, Subject]):
    assert ARCHIVES
    assert set(ARCHIVES) <= set(known)
    assert sum(path.stat().st_size for path in ARCHIVES) < MiB


def test_a_file_that_goes_nowhere_new_is_not_kept(known: dict[Path, Subject], tmp_path: Path):
    subject = known[corpus.DIRECTORY / "DSSE.zip"]
    other, same = b"[]", b"[1, 2, 3, 4, 5, 6]"
    assert corpus.minimised(subject, [subject.data, same, other]) == [other]
    corpus.keep(tmp_path / "a.zip", [other, subject.data])
    assert corpus.load(tmp_path / "a.zip") == [other, subject.data]
