"""The upstream budget: sliding windows, queues, the limiter, what a 429 says."""
