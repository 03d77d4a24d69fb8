"""Training of a SPEED checkpoint on chats: supervised, or distilled from the same model at full depth.

options, settings   what the user chooses
answers             a full-depth server writes the open messages of chats
states              hidden states of the frozen model, kept on disk
run                 one run of transformers' Trainer
command             the whole of `sglang-speed train`

Must not import sglang; answers come from a server over HTTP.
"""
