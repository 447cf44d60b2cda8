"""params.yaml, validated and resolved: the studies, their input files and their result files.

May import: core, data; of analysis and figures only the names of tables and figures.
"""
