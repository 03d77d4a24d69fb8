"""Requests that would end or block SGLang's scheduler for everybody are refused, or end alone.

Nothing here is about depth bands: these are bugs of SGLang that a shared server cannot live with, mended for SPEED
models only. Each change says what is wrong upstream and when it can go; the goal is an empty folder.
`SGLANG_SPEED_GUARD=0` leaves all of it out. docs/operations.md has the table: what each stops, and
what it wrongly refuses.

parameters       values of a request, on arrival
grammars         grammars that the compiler in the scheduler cannot take
stop_patterns    regular expressions whose search takes too long
dead_ends        rows of logits in which every token is forbidden
hooks            the list of these changes
"""
