"""Spool: append turns to disk, hand them to sinks in order, forget them once too old.

Four lanes (event, score, aggregate, raw), each a chain of segments of its own. What is appended
within one commit period becomes one record a lane; the raw record is synced before those that
were derived from it, so that what is derived never outlives its cause. Every derived record
names the raw sequence it belongs to: after a crash the raw lane is replayed, and what a lane
already has is not written to it again.
"""
