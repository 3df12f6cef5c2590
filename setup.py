"""The packages of the wheel: `cowest`, and the folders beside src/, under names of their own.

Everything else about the wheel stands in pyproject.toml, which has no way to find the packages of
one folder and to rename others.
"""

from setuptools import find_packages, setup

BESIDE = {
    "cowest_components": "components",
    "cowest_pipelines": "pipelines",
    "cowest_profiles": "infra/profiles",
    "cowest_serving": "serving",
}

setup(packages=[*find_packages("src"), *BESIDE], package_dir={"": "src", **BESIDE})
