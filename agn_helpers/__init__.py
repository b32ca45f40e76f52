"""Read, check, plot and safely extend the LSST AGN training set's Zarr stores.

`TrainingSet` reads; functions transform frames; ``plot_*`` draw; only ``build_*`` and ``write_*`` touch the
disk.
"""

try:
    from agn_helpers.catalog import (
        catalog_frame,
        check_catalog,
        magnitude_to_flux,
        published_rows,
    )
    from agn_helpers.classes import find_ids, load_classes
    from agn_helpers.columns import BANDS
    from agn_helpers.errors import (
        ClosedError,
        DamagedIdsWarning,
        DamagedStoreError,
        FetchError,
        InvalidValueError,
        LightCurveFailedError,
        LimitError,
        NotATrainingSetError,
        StoreNotFoundError,
        TargetExistsError,
        TrainingSetError,
        UnknownBandError,
        UnknownColumnError,
        UnknownTrainIdError,
        UnsafeWriteError,
        WorkerLostError,
    )
    from agn_helpers.features import FeatureWriter, read_features, seal_zip, write_features
    from agn_helpers.lightcurves import clip_outliers, merge_bands, to_long, to_wide
    from agn_helpers.packed import pack_store
    from agn_helpers.parallel import map_light_curves
    from agn_helpers.plotting import BAND_COLOURS, BAND_MARKERS, plot_light_curve
    from agn_helpers.store import TrainingSet, open_training_set
    from agn_helpers.stripe82 import build_stripe82_store, fetch_stripe82, read_stripe82_fits
    from agn_helpers.validate import validate_store, write_manifest
except ImportError as e:  # say what this Python lacks, all at once
    from agn_helpers.environment import check

    if not (lacking := [str(finding) for finding in check(chapters=False) if not finding.ok]):
        raise
    raise type(e)("\n".join([f"{e}. agn_helpers cannot start:", *lacking]), name=e.name) from e

__version__ = "0.1.0"

__all__ = [
    "BANDS",
    "BAND_COLOURS",
    "BAND_MARKERS",
    "ClosedError",
    "DamagedIdsWarning",
    "DamagedStoreError",
    "FeatureWriter",
    "FetchError",
    "InvalidValueError",
    "LightCurveFailedError",
    "LimitError",
    "NotATrainingSetError",
    "StoreNotFoundError",
    "TargetExistsError",
    "TrainingSet",
    "TrainingSetError",
    "UnknownBandError",
    "UnknownColumnError",
    "UnknownTrainIdError",
    "UnsafeWriteError",
    "WorkerLostError",
    "build_stripe82_store",
    "catalog_frame",
    "check_catalog",
    "clip_outliers",
    "fetch_stripe82",
    "find_ids",
    "load_classes",
    "magnitude_to_flux",
    "map_light_curves",
    "merge_bands",
    "open_training_set",
    "pack_store",
    "plot_light_curve",
    "published_rows",
    "read_features",
    "read_stripe82_fits",
    "seal_zip",
    "to_long",
    "to_wide",
    "validate_store",
    "write_features",
    "write_manifest",
]
