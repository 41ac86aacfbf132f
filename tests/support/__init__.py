"""What the tests share; each file is named by what it holds."""
