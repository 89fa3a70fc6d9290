"""`python -m tests.storm`: see tests/storm/run."""

import argparse
import os
import random
import sys

from tests.storm import proof
from tests.storm.frame import SUITES, Order, Result, cores, leave_on_sigterm, storm, suite_of


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="sh tests/storm/run", description="Try to break the agent by the thousand."
    )
    parser.add_argument("suite", nargs="?", choices=SUITES, help="one of them; all without it")
    parser.add_argument(
        "--runs", type=int, default=100, metavar="N", help="of each suite (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="of the first run; random without it")
    parser.add_argument("--processes", type=int, default=cores(), metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), metavar="M", help="no run begins later"
    )
    parser.add_argument("--write", action="store_true", help="write the result into docs/proof.md")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    suites = SUITES if arguments.suite is None else (arguments.suite,)
    rootless = [name for name in suites if suite_of(name).NEEDS_ROOT and os.geteuid() != 0]
    if rootless:
        print(f"run it as root for {', '.join(rootless)} (nothing was run)", file=sys.stderr)
        return 2
    leave_on_sigterm()
    failed = False
    for name in suites:
        order = Order(name, arguments.runs, seed, arguments.processes, arguments.minutes, proof.commit())
        result = storm(order, told(name))
        print(summary(result), flush=True)
        failed = failed or bool(result.violations)
        if arguments.write:
            proof.write(result)
    return 1 if failed else 0


def told(suite: str):
    def tell(seed: int, violation: str) -> None:
        print(
            f"{violation.rstrip()}\nrepeat it: sh tests/storm/run {suite} --runs 1 --seed {seed}\n",
            flush=True,
        )

    return tell


def summary(result: Result) -> str:
    order = result.order
    lines = [f"{order.suite}: {result.runs} runs from seed {order.seed}, {len(result.violations)} violations"]
    lines += [f"  {count:6} {outcome}" for outcome, count in result.outcomes.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
