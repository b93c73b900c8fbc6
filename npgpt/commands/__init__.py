"""One module per verb of the `npgpt` command, each with a click command `command`.

They parse, call public functions and print; nothing is computed here.
"""
