"""`make bench`: every bench but the soak, one after the other."""

from __future__ import annotations

import asyncio
import runpy

from bench import drain, encode, line


def main() -> None:
    """Run them all; the figures go to bench/RESULTS.md by hand, with the machine they are from."""
    print("# encode")
    encode.main()
    print("# spool")
    runpy.run_module("bench.spool", run_name="__main__")
    print("# drain")
    asyncio.run(drain.bench())
    print("# line")
    asyncio.run(line.main())


if __name__ == "__main__":
    main()
