"""``python -m apixo_nb``: the same as ``apixo-nb``."""

import sys

from .cli import main

sys.exit(main())
