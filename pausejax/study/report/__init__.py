"""Writes a study, or any folder of runs, as one self-contained page.

report         the contents, collected from disk
sweeps, curves, disagreements, differences
               what it is computed from
document       the page; its parts are in sections, figures, cases, probes
chart, dots, heat, markup
               SVG and HTML by hand, escaped by default
"""
