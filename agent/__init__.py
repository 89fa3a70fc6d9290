"""byoi-agent: deploys a user's image to a bare-metal server from its rescue system."""

__version__ = "0.1.0"
