"""Everything about the build that is static stands in pyproject.toml."""

from setuptools import setup

setup()
