"""The documentation: its prose is measured, its examples are run, and its site is built from it and from the code."""
