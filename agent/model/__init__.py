"""The job, disks, stages, status and events as plain values. No I/O."""
