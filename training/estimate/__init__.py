"""What a training needs before it runs: memory of one device by part, and time.  Arithmetic on shapes, without torch.

Tests hold the memory to fake tensors of the trainers' own steps within 5 %; nothing holds the time, which no GPU has
measured.
"""
