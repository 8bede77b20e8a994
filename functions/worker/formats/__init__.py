"""A module for each kind of file: its bytes, or its text, to pieces of text."""
