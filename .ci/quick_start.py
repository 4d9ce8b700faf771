"""Print the N-th command under "## Quick start": what the README promises is what is run."""

import re
import sys
from pathlib import Path

section = Path(sys.argv[1]).read_text(encoding="utf-8").split("\n## Quick start\n")[1]
section = section.split("\n## ")[0]
commands = re.findall(r"^```\w*\n(.*?)\n```$", section, re.DOTALL | re.MULTILINE)
if [c.count("\n") for c in commands] != [0, 0]:
    sys.exit("Quick start should be two fenced blocks of one line each")
print(commands[int(sys.argv[2]) - 1])
