"""The doctor: everything that a provisioning needs, looked at, and one verdict. Nothing is changed.

`probe` is what one look is, `run` puts them in order; the others are what there is to look at.
"""
