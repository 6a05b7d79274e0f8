"""Costs are measured once for a model, device and settings; nothing in the folder can do harm."""

import os
from pathlib import Path

import pytest

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.cost_cache import MAX_AGE_S, known_costs


class Measured:
    """Counts how often it measures; each time finds another cost."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> CostProfile:
        self.count += 1
        return CostProfile(self.count, 1e-5, 0.0, 1e-3, 1e-4, 1e-4, 1e9, 1024)


def test_the_second_start_measures_nothing(tmp_path: Path) -> None:
    measure = Measured()
    first = known_costs(tmp_path / "new" / "folder", "tiny cpu", measure)
    assert known_costs(tmp_path / "new" / "folder", "tiny cpu", measure) == first
    assert measure.count == 1


def test_anything_else_is_measured_for_itself(tmp_path: Path) -> None:
    measure = Measured()
    assert known_costs(tmp_path, "tiny cpu", measure) != known_costs(tmp_path, "tiny gpu", measure)


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"prefill_base_s": "x"}', b"\xff\x00"])
def test_a_damaged_file_is_measured_anew(tmp_path: Path, damage: bytes) -> None:
    measure = Measured()
    known_costs(tmp_path, "tiny", measure)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    assert known_costs(tmp_path, "tiny", measure).prefill_base_s == 2
    assert known_costs(tmp_path, "tiny", measure).prefill_base_s == 2


def test_an_old_file_is_measured_anew(tmp_path: Path) -> None:
    measure = Measured()
    known_costs(tmp_path, "tiny", measure)
    (path,) = tmp_path.iterdir()
    before_s = path.stat().st_mtime - MAX_AGE_S - 1
    os.utime(path, (before_s, before_s))
    assert known_costs(tmp_path, "tiny", measure).prefill_base_s == 2


def test_a_folder_that_cannot_be_written_costs_a_measurement(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert known_costs(tmp_path / "file" / "in", "tiny", Measured()).prefill_base_s == 1
    assert "not kept" in caplog.text
