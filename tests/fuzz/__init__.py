"""What others wrote, mutated: `python -m tests.fuzz` is guided by coverage (atheris), and
tests/test_fuzz.py by properties (hypothesis). What once found something new is kept in `corpus`, a
directory for each target.
"""
