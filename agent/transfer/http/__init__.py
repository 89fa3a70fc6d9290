"""One file behind an http or https URL, as a source of bytes."""
