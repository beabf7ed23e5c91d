"""What `deeper bench loader` compares: pictures, contestants, and the processes that they run in."""
