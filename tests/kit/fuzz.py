"""How long the tests by random and mutated input run: as many examples as each says, times BYOI_FUZZ."""

import os

FACTOR = int(os.environ.get("BYOI_FUZZ", "1"))


def examples(count: int) -> int:
    """The number of examples for a test that takes `count` of them in an ordinary run."""
    return count * FACTOR
