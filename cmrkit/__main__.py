"""``python -m cmrkit``, and ``torchrun -m cmrkit``, where only the first process speaks."""

import os
import sys

from cmrkit.cli.main import main
from cmrkit.training.options import process_rank

if __name__ == "__main__":
    if process_rank() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    main()
