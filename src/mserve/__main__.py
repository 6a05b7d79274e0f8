"""`python -m mserve` is the `mserve` command."""

import sys

from mserve.runtime.cli import main

sys.exit(main())
