"""The benchmark runs, and its two ways agree; how fast they are is not a test's business."""

import os
import re
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_compares_the_engine_with_the_reference(repo: Path) -> None:
    command = [sys.executable, "benchmarks/engine.py", "--layers", "3", "--width", "128", "--repeats", "2"]
    environment = os.environ | {"PYTHONPATH": "workflow", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=True)
    assert "642 positions, 576 visual; 18 rows" in ran.stdout
    (bound,) = re.findall(r"operation bound ([\d.]+)", ran.stdout)
    # 18 rows of 642 positions in 3 layers, against one clean run and suffixes of 1 or 29 positions from layer 0 on.
    assert float(bound) == round(18 * 642 * 3 / (642 * 3 + 9 * (1 + 29) * 3), 1)
    (difference,) = re.findall(r"largest difference in probability ([\d.e-]+)", ran.stdout)
    assert 0 < float(difference) < 1e-5
    (p_clean, low, high) = re.findall(r"p_clean +([\d.]+) +p_knockout ([\d.]+) to ([\d.]+)", ran.stdout)[0]
    assert float(low) < float(p_clean) - 0.01 or float(high) > float(p_clean) + 0.01, "the knockouts do nothing"
