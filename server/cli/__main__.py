"""`python -m harmony4.server.cli`: the command line without its console script."""

import sys

from harmony4.server.cli.main import main

sys.exit(main())
