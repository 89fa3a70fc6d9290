"""Archives: tar and zip, read forward, and the one disk image in them."""
