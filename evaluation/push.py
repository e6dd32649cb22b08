"""Share a run on the Hugging Face Hub: its card, numbers, figures, weights and code, and nothing that shows your data.

python -m evaluation.push runs/resnet/birds6 --repo you/birds6 --dry-run  # what would be uploaded, offline
python -m evaluation.push runs/resnet/birds6 --repo you/birds6 --private  # after `hf auth login`
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .loading import check_files
from .publishing import publish
from .runs import RunError


def stage(folder: Path, destination: Path, repo: str) -> Path:
    """The files to be uploaded, in a folder below `destination`. RunError for a run that is damaged or has no card, or
    one whose card the Hub would not take."""
    check_files(folder)
    staged = publish(folder, destination, weights="full", called=repo)
    try:
        card = ModelCard.load(staged / "README.md")
    except ValueError as error:
        raise RunError(f"{folder / 'README.md'}: the Hub cannot read this card ({error}). Evaluate again.") from None
    if not card.data.to_dict().get("license"):
        raise RunError(f"{folder / 'README.md'}: the card names no licence. Evaluate again.")
    return staged


def _upload(staged: Path, repo: str, private: bool) -> str:
    """Where the folder's files now are. RunError whatever prevents it: the library has no common error for a network
    that is not there."""
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=staged, commit_message=f"Upload {staged.name}"))
    except Exception as error:
        raise RunError(f"{repo}: not uploaded ({type(error).__name__}: {error})") from error


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns 0, or 1 where the run cannot be shared."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run that evaluate_all.py has evaluated")
    parser.add_argument("--repo", required=True, metavar="NAME", help="you/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="list the files and stop")
    options = parser.parse_args(arguments)
    try:
        validate_repo_id(options.repo)
        with tempfile.TemporaryDirectory() as scratch:
            staged = stage(options.run, Path(scratch), options.repo)
            files = sorted(path for path in staged.rglob("*") if path.is_file())
            for path in files:
                print(f"{path.stat().st_size:>12,}  {path.relative_to(staged)}")
            total = sum(path.stat().st_size for path in files)
            if options.dry_run:
                print(f"{len(files)} files, {total:,} bytes would go to {options.repo}; nothing was uploaded.")
                return 0
            print(_upload(staged, options.repo, options.private))
    except (RunError, HFValidationError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
