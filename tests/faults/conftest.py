"""Real clusters that are disturbed. bench/served.py starts and asks them, bench/sabotage.py acts inside.

Tests marked `chaos` run only when asked for: `make chaos`, some ten minutes.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "bench"))
