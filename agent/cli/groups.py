"""Configured disk groups and keys, for commands without the daemon: a number or a name means the same to both."""

from agent.model.disks import GroupSpec


def configured_groups(path: str | None) -> tuple[GroupSpec, ...]:
    """The groups that the agent's configuration names; empty where it names none. Blocking.

    Args:
        path: the value of --config; None: the default file, which may be absent.

    Raises:
        ConfigInvalid: the configuration cannot be read or has faults.
    """
    from agent.service.config.model import load_disk_groups  # noqa: PLC0415 - not needed where --disk names the disk
    from agent.service.config.sources import kernel_command_line  # noqa: PLC0415

    return load_disk_groups(path, cmdline=kernel_command_line())


def configured_keys(path: str | None) -> str:
    """The directory of the operator's keys. Blocking; see `configured_groups`."""
    from agent.service.config.model import load_trusted_keys  # noqa: PLC0415 - not needed where the job brings a key
    from agent.service.config.sources import kernel_command_line  # noqa: PLC0415

    return load_trusted_keys(path, cmdline=kernel_command_line())
