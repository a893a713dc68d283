"""``python -m remodeler`` is the command ``remodel``."""

from remodeler.cli import main

main()
