"""Checkpoint directories: making them, describing them, and the default model.

convert          a stock checkpoint becomes a SPEED checkpoint
card             the README.md of a SPEED checkpoint
hub              where a checkpoint lies that is named by a hub id
servable         what of a checkpoint a server would refuse, its weights aside
describe         what a SPEED checkpoint is, from its config and its safetensors headers
default_model    the name `speed-llama`: a small SPEED checkpoint in the user's cache
smollm2          the packaged GGUF behind the default model becomes a Llama checkpoint
adapter          whether a checkpoint was trained, and what training changed, as shipped for the default model
weights          the safetensors files of a directory
manifest         which files a finished directory has
atomic           directories that appear whole or not at all

Must not import sglang; torch is imported only while the default model is being built.
"""
