"""Packages the experiment files of `configs/` as `pausejax/_configs`.

Everything else that is known of the package stands in setup.cfg.
"""

from setuptools import find_packages, setup

setup(
  packages=[
    *find_packages(include=["pausejax", "pausejax.*"]),
    "pausejax._configs",
  ],
  package_dir={"pausejax._configs": "configs"},
)
