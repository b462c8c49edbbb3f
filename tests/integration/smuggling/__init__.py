"""What two servers could divide differently: raw bytes in, and the exact bytes that the upstream got."""
