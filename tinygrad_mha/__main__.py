"""``python -m tinygrad_mha`` is the command ``tinygrad-mha``."""

import sys


def main() -> int:
    """Run the command line; the exit status."""
    from tinygrad_mha.models.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
