"""byoi-agent: deploys a user's image to a bare-metal server from its rescue system."""

__version__ = "0.2.0.dev0"
"""The one place where the version stands (PEP 440): pyproject.toml and packaging/deb/build read it here.

Between releases it is that of the next one with `.dev0`: what was built from a checkout says so.
"""
