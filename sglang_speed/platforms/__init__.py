"""Machines that SGLang does not serve on by itself, a folder each. cpu: plain CPUs, without an accelerator."""
