"""Faithful: is a dictionary more the model's own when it is trained on the model's own text?"""
