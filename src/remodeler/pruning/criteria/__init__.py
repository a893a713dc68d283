"""How important a block is: one file per family of criteria."""
