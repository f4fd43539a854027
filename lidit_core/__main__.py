"""`python -m lidit_core` is the command line `lidit`."""

import sys

from .cli import main

sys.exit(main())
