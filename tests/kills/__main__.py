"""``python -m tests.kills --kills 2000 --seed 7``: kill programs that buy, check what they leave."""

from __future__ import annotations

import sys

from tests.kills.harness import main

if __name__ == "__main__":
    sys.exit(main())
