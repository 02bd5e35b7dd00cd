"""Print a command of the README, so that CI runs what newcomers read: ``readme_command.py 2``."""

import re
import sys
from pathlib import Path

readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
commands = re.findall(r"^```sh\n(.+?)\n```$", readme, flags=re.MULTILINE | re.DOTALL)
print(commands[int(sys.argv[1]) - 1])
