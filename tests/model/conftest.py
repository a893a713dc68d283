"""Let tests import the scripts of ``scripts/``."""

import sys

from places import REPOSITORY

# Behind everything else: a script and a module of the tests may share a name.
sys.path.append(str(REPOSITORY / "scripts"))
