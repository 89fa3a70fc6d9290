"""An HTTP server over aiohttp, bounded and strict, for whichever application is served: listeners, connections, bodies.

The API (`agent.service.api`) and the commands of an Ironic conductor (`agent.service.ironic`) are served by it.
"""
