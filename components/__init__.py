"""The stages as KFP components: each is its stage's ports and one call of `cowest.stages.run`, which does everything.

KFP ships the source of a component's function and nothing around it, so each imports what it calls. The image, which
COWEST_IMAGE names when a pipeline is compiled, holds the package with all that stages need (infra/images/Dockerfile).
"""

import os
from functools import partial

from kfp import dsl

from cowest import __version__

IMAGE = os.environ.get("COWEST_IMAGE") or f"cowest-python:{__version__}"
"""Where every component runs."""

component = partial(
    dsl.component, base_image=IMAGE, packages_to_install=[], install_kfp_package=False
)
"""Makes a component of a function. Nothing is installed when it starts: its image is whole."""
