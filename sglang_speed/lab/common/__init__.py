"""Shared by all tools of the lab; imports none of them.

chat, messages   chats as JSON lines, a checkpoint's chat template, token ids
data             chats from files and data sets
client           sends requests to a running server
local_server     starts one
statistics       an estimate with its standard error
options          commands from dataclasses
outputs          where results are written
provenance       commit, machine and versions
digest           hashes of JSON values
progress, report, plots   the terminal, numbers in tables, pictures
"""
