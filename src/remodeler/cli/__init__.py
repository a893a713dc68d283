"""The command ``remodel``: one file per verb."""
