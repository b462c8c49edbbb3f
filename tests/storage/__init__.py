"""The stores: one contract over all of them, and what each promises beyond it."""
