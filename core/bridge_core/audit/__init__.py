"""Logs that nobody can rewrite unseen: formats, files and checks that all programs share.

The formats are C2SP's (tlog-tiles, tlog-checkpoint, signed-note, tlog-cosignature, tlog-witness,
tlog-proof), the hashes RFC 6962's, so that public tools read them.
"""
