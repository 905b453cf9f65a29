"""Why a model said what it said: nearest tokens, attention, and where in the image a token comes from."""
