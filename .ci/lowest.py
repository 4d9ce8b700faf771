"""The lowest versions that setup.cfg allows, for pip: ``numpy==2.0 tqdm==4.60 …``

python .ci/lowest.py [EXTRA …]
"""

import configparser
import re
import sys
from pathlib import Path


def lowest(config: configparser.ConfigParser, extras: list[str]) -> list[str]:
    """``name==version`` for every ``name>=version`` of the package and of these extras."""
    lists = [config["options"]["install_requires"]]
    lists += [config["options.extras_require"][extra] for extra in extras]
    return re.findall(r"^[\w.-]+==[\d.]+", "\n".join(lists).replace(">=", "=="), re.MULTILINE)


if __name__ == "__main__":
    parser = configparser.ConfigParser()
    parser.read(Path(__file__).resolve().parents[1] / "setup.cfg")
    print(*lowest(parser, sys.argv[1:]))
