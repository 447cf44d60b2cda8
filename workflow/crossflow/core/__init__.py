"""What every package uses: errors, the vocabulary (flows, windows, records), files, tables and code versions.

May import: nothing.
"""
