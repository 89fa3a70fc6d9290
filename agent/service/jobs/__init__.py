"""The job slot: what may be posted when, how a job lives, and what outlives the agent. Knows nothing of HTTP."""
