"""Image, table and drive formats: bytes in, extents or bytes out. Sans-I/O."""
