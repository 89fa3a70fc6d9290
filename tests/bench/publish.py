"""The page of the figures is made from a file of results: docs/performance/results.json gives its plots, and a block
in two pages.

publish.py --check      say what differs, with status 1; a test does publish.py              make them again
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

import plots
import report
from report import Results

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "docs/performance"
RESULTS = PLACE / "results.json"
PAGE, README = ROOT / "docs/performance.md", ROOT / "README.md"
NO_RUN = "No run of this version has been published yet."
BEGIN, END = "<!-- made by tests/bench/run: begin -->", "<!-- made by tests/bench/run: end -->"


def take(results: Results) -> None:
    """Keep the results of a run; rows that it did not measure stay, if they are from this kind of machine."""
    if RESULTS.exists():
        earlier = json.loads(RESULTS.read_text())
        if all(earlier["about"][key] == results["about"][key] for key in ("cores", "cpu")):
            order = list(earlier["rows"]) + [name for name in results["rows"] if name not in earlier["rows"]]
            rows = earlier["rows"] | results["rows"]
            results = results | {"rows": {name: rows[name] for name in order}}
    PLACE.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    for path, content in made(results).items():
        path.write_text(content)
        print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)


def made(results: Results | None) -> dict[Path, str]:
    """Every file that follows from the results, whole."""
    if results is None:
        return {page: _with_block(page.read_text(), NO_RUN) for page in (PAGE, README)}
    drawn = plots.draw(results)
    files = {PLACE / name: content for name, content in drawn.items()}
    figures = "\n\n".join(f"![{name.removesuffix('.svg')}](performance/{name})" for name in drawn)
    for page, block in (
        (PAGE, f"{report.text(results)}\n\n{figures}"),
        (README, claim(results)),
    ):
        files[page] = _with_block(page.read_text(), block)
    return files


def claim(results: Results) -> str:
    """What the README may say: the first row, and where. From a busy machine it may say nothing."""
    row = results["rows"].get("raw") or next(iter(results["rows"].values()))
    own = report.ours(row)
    peers = report.of_kind(row, "peer")
    listed = ", ".join(
        f"{report.ratio(peer, own):.1f} by `{peer['name']}`" for peer in peers if peer["verifies"]
    )
    unverified = ", ".join(
        f"{report.ratio(peer, own):.1f} by `{peer['name']}`" for peer in peers if not peer["verifies"]
    )
    about = results["about"]
    if report.is_busy(results):
        return "The last comparison was made on a machine that was busy with other things: nothing is claimed from it."
    return (
        f"{row['guest'] / (1 << 30):.1f} GiB of a raw image over http onto a block device take "
        f"{median(report.values(own, 'wall')):.1f} s, verified, on {about['cores']} cores ({about['cpu']}) that also "
        f"ran the server. In the same run, as multiples of that, with the image verified: {listed}; "
        f"without: {unverified}."
    )


def _with_block(text: str, block: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    files = made(json.loads(RESULTS.read_text()) if RESULTS.exists() else None)
    stale = [path for path, content in files.items() if not path.exists() or path.read_text() != content]
    stale += [path for path in PLACE.glob("*.svg") if path not in files]
    if options.check:
        sys.exit("\n".join(f"{path.relative_to(ROOT)} is not what the results give" for path in stale) or 0)
    for path in stale:
        path.write_text(files[path]) if path in files else path.unlink()


if __name__ == "__main__":
    main()
