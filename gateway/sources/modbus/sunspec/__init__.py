"""SunSpec: devices that describe themselves; their models are found, and tags made of them.

models.py    what the models are: facts of the SunSpec Alliance's definitions
layout.py    a model of some length at some address -> rows of a register map; pure
discover.py  which models a device has
profile.py   what is known of the units of one [[source]], kept over restarts
"""
