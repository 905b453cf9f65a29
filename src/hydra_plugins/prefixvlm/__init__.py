"""Hydra plugins: a launcher that runs each job of a sweep as a process, and an Optuna sweeper.

Hydra imports every module here whose name does not begin with an underscore, at each start of a program.
"""
