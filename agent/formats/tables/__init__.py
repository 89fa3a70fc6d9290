"""Partition tables, GPT and MBR: read, checked, and changed for the disk that they come to."""
