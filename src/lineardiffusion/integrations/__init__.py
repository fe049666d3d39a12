"""Bridges to other libraries, one module for each, which needs the library that it is named after; the core imports
none of them."""
