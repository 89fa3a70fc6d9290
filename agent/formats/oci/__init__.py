"""Images in OCI registries: manifests and indexes, which entry and which layer are meant, what vouches for them."""
