"""Write FOLDER/epochs.h5 from FOLDER/epochs.parquet: a data set per column, chunks of 65,536 rows."""

import pathlib
import sys

import h5py
import pyarrow.parquet

folder = pathlib.Path(sys.argv[1])
table = pyarrow.parquet.read_table(folder / "epochs.parquet")
temporary = folder / "epochs.h5.part"
with h5py.File(temporary, "w") as file:
    for name in table.column_names:
        data = table[name].to_numpy()
        chunks = (min(65536, len(data)),)
        file.create_dataset(
            name, data=data, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True
        )
temporary.replace(folder / "epochs.h5")
