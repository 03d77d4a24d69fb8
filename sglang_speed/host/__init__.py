"""The ground floor of everything that touches SGLang: how a change to it is declared, checked and installed.

hook     a change to a function
field    a field that is set on an object
check    whether the installed SGLang is the tested one, and whether every declared change fits and is in place

Owns no behaviour: `serving`, `features`, `guard` and `platforms` declare their changes and say what they
do. Imports nothing of this package but its errors.
"""
