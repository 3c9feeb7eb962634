"""Backtest: a recording, or the spool, through the pipeline that runs live, as fast as it can.

replay    samples as they arrived -> `Turns` -> scores, events
verdict   events against labels: what was found, how late, false alarms a day
report    the same as a page
"""
