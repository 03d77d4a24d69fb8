"""How the shipped models were made: data, scripts and commands that are not in the wheel."""
