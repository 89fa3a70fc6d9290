"""What a probe said on its serial console (packaging/dev/probe/probe), read with suspicion of nothing but noise."""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

LINE = re.compile(r"^PROBE (\w+) ?(.*)$", re.MULTILINE)
END = r"^PROBE (end|fault .*)$"


@dataclass(frozen=True)
class Report:
    """A probe's report, by key. What a probe did not say is missing: `said[...]` raises."""

    said: dict[str, str]

    @property
    def faults(self) -> list[str]:
        return [value for key, value in self.said.items() if key == "fault"]

    def number(self, key: str) -> int:
        return int(self.said[key])

    def decoded(self, key: str) -> str:
        """What was said in base64."""
        return base64.b64decode(self.said[key]).decode()

    @property
    def meta_data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.decoded("meta_data"))
        return found

    @property
    def partitions(self) -> list[dict[str, Any]]:
        """Partitions as sfdisk lists them in the machine, with `start` and `size` in bytes."""
        table = json.loads(self.decoded("table"))["partitiontable"]
        unit = int(table.get("sectorsize", self.said["sector_size"]))
        return [p | {"start": p["start"] * unit, "size": p["size"] * unit} for p in table["partitions"]]


def read_report(console: str) -> Report:
    """The report of a console that has come to `PROBE end`."""
    return Report(dict(LINE.findall(console)))
