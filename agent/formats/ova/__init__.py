"""OVA archives."""
