"""The command ``python -m train.explain``."""

import sys

from train.explain.command import main
from train.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(main))
