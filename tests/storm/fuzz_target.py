"""One subject under atheris: `python -m tests.storm.fuzz_target SAMPLES SUBJECT CORPUS [libFuzzer's options]`.

What it knows is the coverage of the agent; how a file is changed is drawn as in the images storm, or left to libFuzzer.
"""

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["agent"]):
    from tests.storm.corpus import chance_of
    from tests.storm.images import read, within_limits
    from tests.storm.mutations import mutated
    from tests.storm.subjects import subjects

OURS = 0.7
"""Share of the changes that are the storm's own: those know of numbers, heads and checksums."""


def main() -> None:
    samples, name, *arguments = sys.argv[1:]
    subject = next(subject for subject in subjects(Path(samples)) if subject.name == name)

    def attempt(data: bytes) -> None:
        content = within_limits(lambda: read(subject, data, chance_of(data)), subject.name)
        assert content is None or not subject.sealed or content == subject.content, "other bytes than it had"

    def change(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        changed = mutated(data, chance) if chance.random() < OURS else atheris.Mutate(data, most)
        return subject.mended(bytes(changed), chance)[:most]

    atheris.Setup([sys.argv[0], *arguments], attempt, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
