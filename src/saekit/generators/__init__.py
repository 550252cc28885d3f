"""Language models that write text on request: one file each, and how they are asked."""
