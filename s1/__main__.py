"""`python -m s1` runs the command `s1`."""

import sys

from s1.cli import main

sys.exit(main())
