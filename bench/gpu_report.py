"""One file from all that bench/gpu.sh left in its folder: which steps and checks failed, what was
measured, and which figures miss their bar.

    python bench/gpu_report.py FOLDER --json bench/results/gpu.json
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from record import write_record

DECODE_BARS = {1: 0.85, 16: 0.80, 64: 0.70}  # share of the copying limit, by batch size
PREFILL_BAR = 0.60  # share of the measured rate of products, at 4,096 tokens
HOST_BAR = 0.05  # of a decode step
RATIO_BAR = 1.0  # tokens per second against transformers
PACKAGES = ["mserve", "torch", "flashinfer-python", "transformers"]


def read_steps(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "steps").read_text().splitlines() if (folder / "steps").exists() else []
    return [
        {"step": name, "exit_code": int(code), "seconds": int(seconds)}
        for name, code, seconds in map(str.split, lines)
    ]


def read_checks(folder: Path) -> dict[str, Any]:
    """Of the pytest runs: how many passed, and the first line of what was wrong with the others."""
    passed, wrong = 0, {}
    for path in sorted(folder.glob("*.xml")):
        for case in ElementTree.parse(path).iter("testcase"):  # of our own making
            problem = [each for kind in ("failure", "error", "skipped") for each in case.iter(kind)]
            if problem:
                first = (problem[0].get("message") or "no message").partition("\n")[0]
                wrong[f"{case.get('name')}"] = first[:300]
            else:
                passed += 1
    return {"passed": passed, "not_passed": wrong}


def read_figures(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def missed(figures: dict[str, Any]) -> Iterator[str]:
    """A sentence for each bar that is not reached."""
    for each in figures.get("decode", {}).get("decode", []):
        bar = DECODE_BARS.get(each["batch"])
        if not each["recorded"] or bar is None:
            continue
        if each["bound"] < bar:
            yield f"decode of {each['batch']}: {each['bound']:.0%} of the limit, not {bar:.0%}"
        if each["host_overhead"] > HOST_BAR:
            yield f"decode of {each['batch']}: {each['host_overhead']:.1%} of a step is the host's"
    for each in figures.get("prefill", {}).get("prefill", []):
        if each["tokens"] == 4096 and each["bound"] < PREFILL_BAR:
            yield f"prefill: {each['bound']:.0%} of the products' rate, not {PREFILL_BAR:.0%}"
    for each in figures.get("engine", {}).get("comparisons", []):
        if each["ratio"] < RATIO_BAR:
            yield f"{each['concurrency']} streams: {each['ratio']:.2f} times transformers' tokens/s"


def main() -> None:
    parser = argparse.ArgumentParser(description="put a GPU's results together")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    figures, checks = read_figures(options.folder), read_checks(options.folder)
    below = list(missed(figures))
    print(f"{checks['passed']} checks passed")
    for name, problem in checks["not_passed"].items():
        print(f"not passed: {name}: {problem}")
    for sentence in below:
        print(f"below its bar: {sentence}")
    write_record(
        options.json,
        "one GPU: do the kernels agree, and how fast is it",
        PACKAGES,
        steps=read_steps(options.folder),
        checks=checks,
        below_their_bar=below,
        figures=figures,
    )


if __name__ == "__main__":
    main()
