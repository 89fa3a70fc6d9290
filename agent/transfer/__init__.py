"""The async data path from a source through a digest and a decoder into a sink."""
