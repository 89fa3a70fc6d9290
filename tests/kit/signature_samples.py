"""One good signature of each type over the same file, and the key that made it, by the tools that people sign with."""

NOW = 1_800_000_000.0
"""A time at which all of them are good, in seconds since the epoch."""
# Made by gpg --quick-gen-key and --detach-sign (Ed25519).
OPENPGP_KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawxwkxYJKwYBBAHaRw8BAQdAWji05cRGBrsSRJn7OE/9eE9KsinYNGMrsLqc
C0njxjm0G1NhbXBsZSA8c2FtcGxlQGV4YW1wbGUubmV0PoiQBBMWCAA4FiEEcYBv
06daQ2QYXmNCnCjDwX9EAmQFAmsMcJMCGwMFCwkIBwIGFQoJCAsCBBYCAwECHgEC
F4AACgkQnCjDwX9EAmTyrgD/f0jUK72PmNfs0LB/OrUZOLwqkDMxWWfXObpWo/3j
hAwBAMYZpN9rFIe1CH+IpA0bHw17bKPuxFNWCRaupcnAHuEO
=mMl9
-----END PGP PUBLIC KEY BLOCK-----
"""
OPENPGP = """-----BEGIN PGP SIGNATURE-----

iIkEABYIADEWIQRxgG/Tp1pDZBheY0KcKMPBf0QCZAUCawxwkxMcc2FtcGxlQGV4
YW1wbGUubmV0AAoJEJwow8F/RAJkwYAA/1oeste1dyqAUOzc7wzog74bl7JHDjJU
d3tYCxj/9LYnAPsG/WlWpgokAvbZ2EHU9SW99mwXvrYUDuEr7SC4U/qfBg==
=IZWF
-----END PGP SIGNATURE-----
"""
MINISIGN_KEY = (
    "untrusted comment: minisign public key\nRWTdW3QdS34U6H7j3FocMiDT6oVAaPTN92nVDz/FVMoBp9JjHargKbhd\n"
)
MINISIGN = """untrusted comment: signature from minisign secret key
RUTdW3QdS34U6LyGtyz9a9WCozMzCWM7fplHKsaaJ9ZEB6OdyQZWu62mwKNj9Utr3Es6AKwGchWtaIj5gGOoccBLCN6xCu016QM=
trusted comment: timestamp:1700000000\tfile:d
+2OqAlFjUxRZBqzCx6JIOaet6APIuVOCGqd32KSB0Zb/9HjvvNjEXKrWbXcCn6CRDHGt6+H+/zK3oVT+RXKKDQ==
"""
SSH_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOf7mcGRpCYTyjbBZaPr2IcoMOs+ymLsNq0xuFUk9VXU sample@example.net"
)
SSH = """-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg5/uZwZGkJhPKNsFlo+vYhygw6z
7KYuw2rTG4VST1VdQAAAAEZmlsZQAAAAAAAAAGc2hhNTEyAAAAUwAAAAtzc2gtZWQyNTUx
OQAAAEC0ADTezPZYloGdg/+TzT9fpl7hPBF3bHqmJZvA9LvcaOSpEKtVJwcMISNiFmxt88
We7T7vUq+Vm7GojOMKZJcK
-----END SSH SIGNATURE-----
"""
COSIGN_KEY = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEJ7uRCB6M/G0RclpN4YBEUWXtRrjF
NADmPSgPcl4aEvkG5fxzBpRyS2ZaBq5z5Hb3wAqUKgcp5JkBZ1e40rdzuA==
-----END PUBLIC KEY-----
"""
COSIGN = "MEYCIQCJv1CtuFW2udH1fdLz4CJw+gB4GA51h3O91kpCvrloZwIhALiaGFJJqsXeHXyKwCvflQLz1a96kzDu2u0SBpa3QmHQ"
KEYS = {"openpgp": OPENPGP_KEY, "minisign": MINISIGN_KEY, "ssh": SSH_KEY, "cosign": COSIGN_KEY}
GOOD = {"openpgp": OPENPGP, "minisign": MINISIGN, "ssh": SSH, "cosign": COSIGN}
