"""qcow2 in one forward pass."""
