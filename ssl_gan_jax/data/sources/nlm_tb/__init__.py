"""Shenzhen and Montgomery: normal or tuberculosis, two institutions."""
