"""The stages as KFP components.

A component is the ports of a stage and one call of `cowest.stages.run`, which does the work.

KFP ships the source of a component's function and nothing around it. So a function imports what it
calls, and finds it in the image of the step: infra/images/ builds it, and COWEST_IMAGE
names it when a pipeline is compiled.
"""

import os
from functools import partial

from kfp import dsl

from cowest import __version__

IMAGE = os.environ.get("COWEST_IMAGE") or f"cowest-python:{__version__}"
"""The image in which every component runs."""

component = partial(
    dsl.component, base_image=IMAGE, packages_to_install=[], install_kfp_package=False
)
"""Makes a component of a function. Nothing is installed when it starts: its image is whole."""
