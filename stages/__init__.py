"""One thin script per stage, run as `python -m stages.<name>` from the project's root.

The package beside them comes first on the path: an experiment's copy of the project must import its own code, not the
installed one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
