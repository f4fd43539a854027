"""All else is in pyproject.toml; `lidit_core/fetch.py`, which starts a moved script, stays here."""

from setuptools import setup
from setuptools.command.build_py import build_py


class WithoutForward(build_py):
    def find_package_modules(self, package, package_dir):
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if module[:2] != ("lidit_core", "fetch")]


setup(cmdclass={"build_py": WithoutForward})
