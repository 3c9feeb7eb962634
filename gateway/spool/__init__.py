"""Spool: append turns to disk, hand them to sinks in order, forget them once too old.

    log.py        Spool: what the pipeline sees. Groups turns, tells who waits, ends cleanly
    writer.py     the one thread that writes; waits out a disk that refuses
    store.py      the same without threads: open, commit, cursors, counts
    lane.py       appends to one lane        pool.py      files, the spare, what is deleted
    recovery.py   files -> segments          catalog.py   segments -> records, read from any thread
    segment.py, columns.py, packing.py, shapes.py, dictionary.py, gap.py, cursor.py
                  bytes and back (docs/formats/spool.md)
    reader.py     a sink's way through it    history.py   questions by tag and time
    disk.py       the few file calls, so that a simulated disk can stand in
    overlay.py    files in memory while the disk refuses

Four lanes (event, score, aggregate, raw), each a chain of segments of its own. What is appended
within one commit period becomes one record a lane. What a reader of this package may rely on:

* A future of `append` is done once its group's raw and event records are synced and the others
  written. A crash takes groups whose futures were not done, and of scores and aggregates what the
  replay of the raw lane makes again.
* The raw record is synced before those that were derived from it, and each of these names its
  sequence. So what is derived never outlives its cause, and after a crash the raw lane is
  replayed: what a lane already has (`applied`) is not written to it again.
* Turns in which nothing happened are kept too - time passed in them - but are no reason to
  write: they become durable with the next group that has samples, or a quarter of an hour later.
  Until then their future gives the last raw sequence, since there is nothing to lose.
* A group is committed when its period is over, when `commit_bytes` wait, or at once when it holds
  an event.
* Sinks and queries see durable samples only.
* With `raw = false` there is nothing to replay; derived records then name the last raw sequence
  there was, 0 if there never was one.
* Damage never keeps the spool from starting. It is counted to the sample, and the rest is served.
* A disk that refuses makes the spool degraded, not broken: the group is tried again with a new
  file, and after five seconds written to memory, bounded by `pending_bytes_max`: sinks and queries
  go on, the oldest is given up, counted, and no future is done before the disk has it.
"""
