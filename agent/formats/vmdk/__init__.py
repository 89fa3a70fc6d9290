"""VMDK: one disk in one file, sparse or streamOptimized."""
