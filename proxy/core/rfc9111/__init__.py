"""What a shared cache may do with single answers (RFC 9111), decided without I/O and without a clock."""
