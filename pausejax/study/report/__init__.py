"""A study, or any folder of runs, as one page that needs nothing else.

report         the contents, collected from disk
sweeps, curves, disagreements, differences
               what it is computed from
document       the page; its parts are in sections, figures, cases
chart, markup  SVG and HTML by hand, escaped by default
"""
