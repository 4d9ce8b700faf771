"""Print the N-th command under "## Quick start": what the README promises is what is run."""

import re
import sys
from pathlib import Path

section = Path(sys.argv[1]).read_text(encoding="utf-8").split("\n## Quick start\n")[1]
section = section.split("\n## ")[0]
commands = re.findall(r"^```\w*\n(.*?)\n```$", section, re.DOTALL | re.MULTILINE)
assert len(commands) == 2 and not any("\n" in c for c in commands), "two blocks of one line each"
print(commands[int(sys.argv[2]) - 1])
