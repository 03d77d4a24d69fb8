"""How what is shipped was made: data, scripts and commands that are not in the wheel."""
