"""Training a SPEED checkpoint from chats: supervised, or from the same model at full depth.

answers     the server at full depth writes what a chat leaves open
states      what the frozen model computes, kept on disk
run         one run of transformers' Trainer
prompts     chats without answers, generated offline

Must not import sglang; answers come from a server over HTTP.
"""
