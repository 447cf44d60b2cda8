"""What all packages use: errors, the vocabulary (flows, windows, records), files, tables and code versions.

May import: nothing.
"""
