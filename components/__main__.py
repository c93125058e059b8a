"""`python -m components STAGE CATEGORY`: run one stage. dvc.yaml calls it; people may too.

Exit code 2 says that the input is at fault and another try is useless, 1 anything else.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import shutil
import sys
from pathlib import Path

from components import stage
from components.errors import UserError
from components.settings import find_root, load

TRAINING = ("train_vqvae", "train_prior")  # what several processes may do together
ROOM = 64 * 2**10  # bytes; with less left, whatever failed failed for that


def tell(line: str) -> None:
    """One line to stderr; of several processes the first speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)


def disk_full(error: BaseException, root: Path) -> bool:
    """Whether a full disk is behind the error. Not only by its kind: numpy, safetensors and OpenCV have their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or shutil.disk_usage(root).free < ROOM


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in stage.MODULES:
        print(f"usage: python -m components {{{'|'.join(stage.STAGES)}}} CATEGORY", file=sys.stderr)
        return 2
    name, category = arguments
    root = Path.cwd()
    try:
        root = find_root()
        settings = load(root, category)
        # GNU's OpenMP lets waiting threads spin for about a millisecond. With two other programs on two cores a
        # training step then took ten times as long; never spinning doubled inference. Read when torch is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
        import torch  # after the settings: a wrong key is told at once, not after torch's import

        torch.set_num_threads(os.cpu_count() or 1)
        torch.manual_seed(settings.seed)
        from components.parallel import together

        with together(arguments) if name in TRAINING else contextlib.nullcontext():
            importlib.import_module(stage.MODULES[name]).run(root, settings)
    except UserError as error:
        tell(f"{name}@{category}: {error}")
        return 2
    except Exception as error:
        if not disk_full(error, root):
            raise
        tell(f"{name}@{category}: the disk is full; free some space and run again, nothing is lost")
        return 1
    except KeyboardInterrupt:
        tell(f"{name}@{category}: stopped; the next run resumes from the last checkpoint")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
