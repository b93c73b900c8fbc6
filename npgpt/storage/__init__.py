"""Models on disk and on the Hub: safetensors files, folders, downloads."""
