"""The client of a control plane: asks it for jobs, and reports what becomes of them."""
