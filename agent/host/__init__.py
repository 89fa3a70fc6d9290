"""Blocking and privileged work on this machine: devices, tables, child processes. Knows no job."""
