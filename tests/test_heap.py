import ctypes
import subprocess
import sys

import pytest

GLIBC = hasattr(ctypes.CDLL(None), "mallopt")
# 24 MiB in three pieces, all of them given back, a hundred times: as a training step does
PROGRAM = """
import resource, numpy as np
from audiovae.heap import keep_freed
if {kept}: assert keep_freed()
def step():
    return sum(float(piece[-1]) for piece in [np.ones(1 << 20) for _ in range(3)])
for _ in range(3): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_memory_that_is_kept_is_not_asked_for_again():
    faults = {kept: int(subprocess.run([sys.executable, "-c", PROGRAM.format(kept=kept)], capture_output=True,
                                       check=True, text=True).stdout) for kept in (True, False)}
    assert faults[True] < 100 < 10_000 < faults[False]
