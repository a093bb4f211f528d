"""``python -m unreel.cli``."""

import sys

from unreel.cli.main import main

sys.exit(main())
