"""The command line: the table of verbs, and the verbs that print.

May import: everything.
"""
