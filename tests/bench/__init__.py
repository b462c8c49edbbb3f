"""`make bench`: hits per second beside nginx and Varnish, what a miss costs, and what an idle proxy takes."""
