"""Training a SPEED checkpoint from chats: supervised, or from the same model at full depth.

conversations    chats become token ids and the positions that the model says in each turn
prompts          chats without answers, generated offline

Must not import sglang; answers come from a server over HTTP.
"""
