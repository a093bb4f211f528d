"""``python -m unreel``."""

import sys

from unreel.cli.main import main

sys.exit(main())
