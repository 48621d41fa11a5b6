"""The training application: `python -m train --config=configs/NAME.py --workdir=DIR`."""
