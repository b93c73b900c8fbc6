"""Stepping through a text token by token: a tree of what was and what could have been.

`tree` is the session, without any user interface; `keys` turns keys into steps and
shows where one stands as lines of text; `screen` is the same in a full terminal
(textual, extra `tui`).
"""
