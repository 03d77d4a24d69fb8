"""The ground floor of everything that touches SGLang: which versions, what differs, and how changes are declared.

versions    the versions that are supported, and which one is installed
base        what differs between them, as one interface
v0_5_17, v0_5_23   that interface, a file for each version
adapter     `HOST`, the one for the installed version
hook        a change to a function, or to a step that resolves SGLang's arguments
field       a field that is set on an object
check       whether every declared change fits, is in place, and has run

Owns no behaviour: `serving`, `features`, `guard` and `platforms` declare their changes and say what they
do. Nothing outside reads a field of a request, argument, pool or batch that moved between versions.
Imports nothing of this package but its errors.
"""
