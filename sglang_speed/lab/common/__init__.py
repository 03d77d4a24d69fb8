"""What all tools of the lab share; knows none of them.

chat, messages   chats as JSON lines, a checkpoint's chat template, token ids
client           asks a running server
local_server     starts one
statistics       an estimate with its standard error
outputs          where results are written
provenance       commit, machine and versions
digest           short names for values, by content
progress, report, plots   the terminal, numbers in tables, pictures
"""
