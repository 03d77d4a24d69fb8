"""What an operator needs besides the package: README.md lists it. The code here writes files, and serves nothing."""
