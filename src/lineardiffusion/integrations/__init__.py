"""Bridges to other libraries, one module each. Nothing is imported here, and the core imports none of them: each needs
the library that it is named after, or says so.
"""
