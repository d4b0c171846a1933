"""How the steps of the smoke test ended."""

import traceback
from typing import Callable, List


class NotHereError(Exception):
    """Something that a step needs is not on this machine."""


class Report:
    """Runs steps, prints how each ended, and remembers failures and skipped steps."""

    def __init__(self) -> None:
        self.failed: List[str] = []
        self.skipped: List[str] = []

    def step(self, name: str, function: Callable[[], str]) -> None:
        try:
            print(f"ok       {name}: {function()}", flush=True)
        except NotHereError as error:
            self.skip(name, str(error))
        except Exception as error:  # a smoke test goes on and tells all
            traceback.print_exc()
            self.failed.append(name)
            print(f"FAILED   {name}: {error}", flush=True)

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append(name)
        print(f"skipped  {name}: {reason}", flush=True)
