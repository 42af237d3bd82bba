"""What a process may use of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BOUND = """
import os
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from segrefine.batch.worker import Job
from segrefine.engines import usable_cores
from segrefine.runtime.engine_set import PipelineSetup
job = Job(source=Path("in"), images=None, output=Path("out"), setup=PipelineSetup(bundle="demo"))
print(usable_cores(), job.share_cores(1).setup.engines.threads)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_process_that_is_bound_to_one_core_uses_one():
    done = subprocess.run([sys.executable, "-c", BOUND], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
