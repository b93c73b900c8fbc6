"""Guidance: several distributions a step, combined into one."""
