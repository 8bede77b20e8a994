"""How large each function is, unpacked: Lambda takes 250 MB, and every byte is fetched at a cold start.

python -m infra bench size
"""

from infra.functions import declared
from infra.package import installed_bytes
from tests.bench.row import Row

# Its size without bytecode, and with it.
CHAT_MB = 120.0, 180.0
# Of the others with bytecode: Lambda's limit is 250 MB.
ANY_MB = 200.0


def run() -> list[Row]:
    """Add up the files that each function's zip carries."""
    rows = []
    for function in declared():
        plain, compiled = (installed_bytes(function, bytecode=bytecode) / 1e6 for bytecode in (False, True))
        if function.name == "chat":
            rows.append(Row("size", "chat, unpacked", plain, "MB", 1, budget=CHAT_MB[0]))
        budget = CHAT_MB[1] if function.name == "chat" else ANY_MB
        rows.append(Row("size", f"{function.name}, unpacked and compiled", compiled, "MB", 1, budget=budget))
    return rows
