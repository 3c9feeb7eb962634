"""Sluicegate: an edge gateway. Machines -> sources -> stages -> spool -> sinks -> databases.

What flows is a `Frame` (frame.py); nothing flows back but "durable" (spool to source) and
"delivered" (sink to spool). Start reading at `pipeline.py`.

Imports go one way (kept by the import linter in `make lint`):

    cli, ops -> pipeline, config -> {sources, stages, inference, spool, sinks}
             -> {asset, settings, tag, frame, clock, jobs, stats, loop, resolve, errors}

Siblings never import each other. To add ...
    a protocol     a folder under sources/, a line in sources/__init__.py and config/schema.py
    a destination  a file under sinks/, likewise
    a detector     a file under inference/fit/
    a model        a folder under models/
    a counter      a line in the stats of its part, with the words that /metrics gives out
    a bug          a folder under tests/cases/
"""

__version__ = "0.1.0"
