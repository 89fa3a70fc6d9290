"""The environment variables that the two commands read, for their manual pages: name -> meaning. Pure."""

from agent.cli.commands import SOCKET_VARIABLE

_DOWNLOADS = {
    "http_proxy, https_proxy, all_proxy": "The proxy for each scheme, or for both; one of http or https.",
    "no_proxy": "Hosts that are reached without a proxy: names, or name:port, with commas between them; * for all.",
    "SSL_CERT_FILE, SSL_CERT_DIR": "The authorities that are trusted for https, in place of the system's.",
}

BYOI = {
    SOCKET_VARIABLE: "The socket of byoi-agent, where --socket does not name one.",
    "TERM": "Where it is dumb, vt220 or the like, or unset, progress is shown in plain lines; linux has bars of ASCII.",
    "NO_COLOR": "Where it is set and not empty, there are no colours.",
    "COLUMNS": "The width of the bar's lines and of the table of disks, in place of the terminal's.",
    **_DOWNLOADS,
}

AGENT = {
    **_DOWNLOADS,
    "CREDENTIALS_DIRECTORY": "Set by systemd: the directory of its credentials, from which secrets are read.",
    "NOTIFY_SOCKET": "Set by systemd: where the agent says that it is ready, what it does, and that it lives.",
    "WATCHDOG_USEC, WATCHDOG_PID": "Set by systemd: how often the last of these is wanted, and of which process.",
    "JOURNAL_STREAM": "Set by systemd: where it is set, log lines begin with their priority and have no time.",
}
