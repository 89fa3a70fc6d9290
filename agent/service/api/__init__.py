"""The HTTP API: its routes, who may call, and what they are answered. It is served by `agent.service.http`."""
