"""One thin script per stage, run as `python -m stages.<name>` from the project's root.

The package beside them comes first on the path: an experiment's copy of the project must import its own code, not the
installed one. Signals and faults of the machine end a stage with one line even while it imports its modules.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

if sys.argv[0] == "-m":  # Python is about to run a stage
    from tumorboard.base.collector import pause_collector
    from tumorboard.base.cores import let_threads_sleep
    from tumorboard.base.faults import report_uncaught_faults
    from tumorboard.base.interrupts import handle_signals

    _stage = next((word for word in sys.orig_argv if word.startswith("stages.")), "stage").removeprefix("stages.")
    report_uncaught_faults(_stage)
    handle_signals(_stage)
    let_threads_sleep()
    pause_collector()  # run_stage resumes it
