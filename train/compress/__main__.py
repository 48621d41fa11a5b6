"""The command ``python -m train.compress``."""

import sys

from train.compress.command import main
from train.launch import cli

if __name__ == "__main__":
    sys.exit(cli.run(main, long=True))
