"""Make a store that is several times as large from one that is there.

    python benchmarks/repeat.py SOURCE TARGET TIMES

Every light curve is copied TIMES times, each time with another id, and so is its row of the catalogue. It
shows how reading grows beyond the sizes that the sample store is made in; its quasars are not independent.
"""

import argparse
import json
import zipfile
from pathlib import Path

import numcodecs
import numpy as np
from tqdm import tqdm


def repeat(source, target, times):
    """Write `target`, a zip in Zarr format 2, from `source`, a sample store."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target.with_suffix(".part"), "w") as new:

        def write(name, data):
            new.writestr(zipfile.ZipInfo(name), data)

        members = {}
        for name in old.namelist():
            top, _, rest = name.partition("/")
            if top == "sdss_lc" and "/" in rest:
                members.setdefault(int(rest.partition("/")[0]), []).append(name)
            elif top != "catalog":
                write(name, old.read(name))
        meta = json.loads(old.read("catalog/.zarray"))
        codec = numcodecs.get_codec(meta["compressor"])
        rows = [
            np.frombuffer(codec.decode(old.read(f"catalog/{i}")), [tuple(f) for f in meta["dtype"]])
            for i in range(-(-meta["shape"][0] // meta["chunks"][0]))
        ]
        rows = np.concatenate(rows)[: meta["shape"][0]]
        step = int(rows["train_id"].max()) + 1
        everything = np.concatenate([rows] * times)
        everything["train_id"] += np.repeat(np.arange(times) * step, len(rows))
        write("catalog/.zattrs", old.read("catalog/.zattrs"))
        write("catalog/.zarray", json.dumps(meta | {"shape": [len(everything)], "chunks": [len(everything)]}))
        write("catalog/0", codec.encode(everything))
        for k in tqdm(range(times), disable=None):
            for train_id, names in members.items():
                for name in names:
                    write(f"sdss_lc/{train_id + k * step}/{name.rpartition('/')[2]}", old.read(name))
    target.with_suffix(".part").replace(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("times", type=int)
    options = parser.parse_args()
    repeat(options.source, options.target, options.times)
