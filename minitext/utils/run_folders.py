"""The folders of a run: `<out>`, `<out>.partial` while it is written, and `<out>.old` while it is replaced.

Only folders that a run has made are deleted: `.partial` and `.old` hold a file that marks them. A run that was killed
between two renames is completed by the next command on the same folder.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from minitext.utils.errors import UserError
from minitext.utils.io import lock_output, read_json, sync_folder

CHECKPOINT_FILE = "checkpoint.pt"
UNFINISHED, REPLACED = ".unfinished", ".replaced"  # the marks of `<out>.partial` and `<out>.old`


def partial_of(out: Path) -> Path:
    """The folder in which the run `out` grows."""
    return out.parent / f"{out.name}.partial"


def old_of(out: Path) -> Path:
    """The folder of the run that is replaced by `out`."""
    return out.parent / f"{out.name}.old"


def refuse_links(out: Path) -> None:
    """Raises UserError if one of the three folders is a symbolic link, which a rename would replace."""
    for path in (out, partial_of(out), old_of(out)):
        if path.is_symlink():
            raise UserError(f"{path}: a symbolic link to {path.resolve()}; pass that folder as --out, or delete it")


def is_marked(folder: Path, mark: str) -> bool:
    """Whether a run has made this folder: it holds the mark, or nothing at all."""
    return folder.is_dir() and not folder.is_symlink() and ((folder / mark).is_file() or not any(folder.iterdir()))


def is_complete(folder: Path, final_file: str = "scores.json") -> bool:
    """Whether a folder is a complete run of minitext, which its settings say."""
    if not all((folder / name).is_file() for name in (final_file, "settings.json")):
        return False
    try:
        versions = read_json(folder / "settings.json").get("versions")
    except UserError:
        return False
    return isinstance(versions, dict) and "minitext" in versions


def delete_marked(folder: Path, mark: str) -> None:
    """Delete a folder if it holds the mark, which is deleted last, so that a killed deletion can be repeated."""
    if not is_marked(folder, mark):
        return
    for path in list(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != mark:
            path.unlink()
    (folder / mark).unlink(missing_ok=True)
    folder.rmdir()


def rename_finished(out: Path) -> None:
    """Rename `<out>.partial` to `out`, then delete the run that it replaces, and the checkpoint last."""
    if out.exists():
        delete_marked(old_of(out), REPLACED)  # left by a run that was killed while it deleted it
        (out / REPLACED).touch()
        out.rename(old_of(out))
    partial_of(out).rename(out)
    clean_up(out)


def clean_up(out: Path) -> None:
    """What follows the last rename."""
    sync_folder(out.parent)
    delete_marked(old_of(out), REPLACED)
    for name in (CHECKPOINT_FILE, UNFINISHED, REPLACED):
        (out / name).unlink(missing_ok=True)


def repair(out: Path, final_file: str = "scores.json") -> None:
    """Complete what a run that was killed in `rename_finished` has left; nothing while another process writes `out`."""
    refuse_links(out)
    partial, old = partial_of(out), old_of(out)
    if not any(mark.exists() for mark in (old / REPLACED, out / UNFINISHED, out / REPLACED)):
        return
    with suppress(UserError), lock_output(out):
        if not out.exists():  # killed between the two renames: the new run is complete
            (partial if is_marked(partial, UNFINISHED) and is_complete(partial, final_file) else old).rename(out)
        if is_complete(out, final_file):
            clean_up(out)
