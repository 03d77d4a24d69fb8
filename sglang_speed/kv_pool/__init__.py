"""The deep band's KV: its slots, its request table, its anchors, and how large it is.

Owns every slot of the deep pool from start-up on: a slot is free, or owned by one request row, or by one
anchor entry. Must not touch the main pool or the radix tree, which belong to SGLang.
"""
