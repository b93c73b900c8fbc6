"""What every room stands on: arguments checked, trees of arrays, files."""
