"""``python -m crossflow <verb>``."""

import sys

from crossflow.cli.main import main

sys.exit(main())
