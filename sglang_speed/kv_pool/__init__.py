"""The KV of deep bands: the slots, request table and anchors of each, and how large they are.

Owns every slot of a deep band's pool from start-up on: a slot is free, or owned by one request row, or by one
anchor entry. Must not touch the main pool or the radix tree, which belong to SGLang.
"""
