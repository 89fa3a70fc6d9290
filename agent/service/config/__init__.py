"""The configuration: where it may come from, what it may say, and what is in force. Knows nothing of HTTP."""
