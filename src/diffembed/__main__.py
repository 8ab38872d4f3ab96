"""`python -m diffembed`: the command line."""

import sys

from diffembed.cli import main

sys.exit(main())
