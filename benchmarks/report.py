"""The report over thousands of runs: `cmrkit report` beside plain reading of the same records.

Four real runs of BATCH on `digits` are copied under other seeds until the store has as many records as asked for.
The reference reads and parses every record, nothing more. Galleries are left out: they open the artifacts of one run
for each paper, however many runs there are.

Run with ``python benchmarks/report.py [records]``. Targets: at most ten times the reference, a page under 2 MB.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import cmrkit
from cmrkit.pipeline.store import Store
from cmrkit.reporting.html import write_site

TARGET, LARGEST = 10.0, 2e6  # times the reference; bytes


def copies(folder: Path, count: int) -> None:
    """Copy the records in ``folder`` under new seeds until there are ``count``."""
    drawn = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.iterdir())]
    for i in range(len(drawn), count):
        record, seed = drawn[i % len(drawn)], i // len(drawn)
        record = {**record, "seed": seed, "params": {**record["params"], "seed": seed}}
        (folder / f"{i:064x}.json").write_text(json.dumps(record), encoding="utf-8")


def main(count: int = 5000) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cmrkit.reproduce("batch", "digits", bits=[16, 32, 64, 128], seeds=[0], cache=root)
        copies(root / "records", count)
        start = time.perf_counter()
        found = [json.loads(path.read_text(encoding="utf-8")) for path in (root / "records").iterdir()]
        reference = time.perf_counter() - start
        start = time.perf_counter()
        written = write_site(Store(root), root / "site", galleries=False)
        seconds = time.perf_counter() - start
    assert written["records"] == len(found) == count, (written["records"], count)
    ratio, size = seconds / reference, written["bytes"]
    print(f"{count} records: read in {reference:.2f} s, report in {seconds:.2f} s, page of {size / 1e6:.2f} MB")
    print(f"  {ratio:.1f} times the reference (target {TARGET}): {'reached' if ratio <= TARGET else 'MISSED'}")
    print(f"  page (at most {LARGEST / 1e6:.0f} MB): {'reached' if size <= LARGEST else 'MISSED'}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
