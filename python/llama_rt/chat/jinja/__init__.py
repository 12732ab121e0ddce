"""Jinja templates of checkpoints, which are untrusted, in a sandbox.

`sandbox` renders; `resource_budget` counts steps, seconds and bytes; `limits` lists what a template
may call and bounds what each call makes; `ast_instrumentation` puts the checks into the syntax.
"""
