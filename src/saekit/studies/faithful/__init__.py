"""Are dictionaries trained on a model's own text more faithful to the model?"""
