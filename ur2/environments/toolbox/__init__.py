"""Tools that a policy may use.

Enters: arguments that fit a tool's schema. Leaves: a `ToolUse` with text, within a deadline and a
limit of size. Invariant: nothing here raises for what a policy writes or what a tool does; heavy
clients are imported where they are first used.
"""
