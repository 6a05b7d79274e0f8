"""The scripts of bench/, as far as they compute: what they print and keep of tiny runs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "bench"))
