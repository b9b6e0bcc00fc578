"""Append revisions to the history in the given directory until killed; tell each number once it is durable."""

import asyncio
import sys
from pathlib import Path

from mesh.config.history import Draft, FileKeys, Layer, RevisionStore


async def main() -> None:
    history = RevisionStore(FileKeys(Path(sys.argv[1])))
    await history.settle()
    while True:
        number = (await history.head()).newest
        text = f"# {number + 1}\n" * 50
        await history.append(Draft("writer", "", (Layer("operator", "here", text),), "v"), newest=number)
        print(number + 1, flush=True)


asyncio.run(main())
