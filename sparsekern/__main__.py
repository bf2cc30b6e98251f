"""`python -m sparsekern` is the command `sparsekern`."""

import sys

from .cli import main

sys.exit(main())
