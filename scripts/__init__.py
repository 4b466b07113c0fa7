"""Tools for working on s1; run them from the repository root. None of them is part of the installed package."""
