"""Write tests/vectors/ anew."""

from make_vectors import write

made = write()
print(f"{len(made)} files, {sum(map(len, made.values()))} bytes")
