"""Attention, one backend per depth band behind SGLang's single interface."""
