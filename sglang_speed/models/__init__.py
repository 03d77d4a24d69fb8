"""Model files. SGLang's model registry scans this package."""
