"""`make bench`: every bench but the soak, one after the other."""

from __future__ import annotations

import asyncio
import os
import runpy
import subprocess
import sys

from bench import detection, drain, encode, line, modbus_fleet


def main() -> None:
    """Run them all; the figures go to bench/RESULTS.md by hand, with the machine they are from."""
    print("# encode")
    encode.main()
    print("# spool")
    runpy.run_module("bench.spool", run_name="__main__")
    print("# drain")
    asyncio.run(drain.bench())
    print("# modbus fleet")
    modbus_fleet.main([])
    print("# line")
    asyncio.run(line.main())
    print("# commission", flush=True)  # in a process of its own, for its peak of memory
    one_core = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "bench.commission"], env=one_core, check=True)
    print("# detection")
    detection.main()


if __name__ == "__main__":
    main()
