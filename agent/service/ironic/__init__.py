"""The front for OpenStack Ironic: the agent that its conductor finds on a machine that it deploys."""
