"""C{python -m phpmq}: the command without its script."""

import sys

from phpmq.cli import main

sys.exit(main())
