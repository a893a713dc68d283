"""``python -m remodeler`` is the command ``remodel``."""

from remodeler.cli.app import main

main()
