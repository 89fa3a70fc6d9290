"""Signature files and public keys, as far as they can be judged without I/O: OpenPGP, minisign, SSH, cosign,
Sigstore.

Each type has a module with one function that reads a signature and the keys that may have made it, and gives `Claims`:
what the signature file claims, judged as far as that goes without the signed bytes. What is wrong by then is told
before anything is written. The mathematics are `cryptography`'s, and for OpenPGP those of gpgv (`agent.host.gpgv`), for
Sigstore those of its library (`agent.host.sigstore`).
Every byte comes from outside, and is bounded by whoever fetched it (`agent.model.signature`).
"""
