"""The acts of a deployment, one file each: the only place where a host disk meets a transfer."""
