"""Reports: one self-contained HTML file with drawings, for a browser without a network.

svg    drawings as text: series over time, bands, bars, grids of shares
page   the file around them: style for light, dark and paper; tables; every text escaped
"""
