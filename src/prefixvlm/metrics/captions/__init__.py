"""Caption metrics: BLEU, ROUGE-L, CIDEr-D, CLIPScore, diversity, and METEOR and SPICE through Java."""
