"""The small world that ships with s1: questions, a teacher and the weights of a base model.

It is a model organism. Its questions have exact answers, its teacher is a program, and the mechanism
that makes budgets and waits matter is built in and described in docs/petri.md.
"""
