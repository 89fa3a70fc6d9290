"""What is done and in which order: facts, the plan, and the runner that carries it out."""
