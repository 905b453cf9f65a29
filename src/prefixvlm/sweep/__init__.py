"""The folder of a sweep goes in; which set-up was best, and what mattered, comes out."""
