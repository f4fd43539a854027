"""The command line `lidit`, run by `python -m lidit_core`."""

import sys

from .cli import main

sys.exit(main())
