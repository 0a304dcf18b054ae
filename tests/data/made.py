"""Made files for the tests of this folder: DICOM as scanners write it."""

import warnings

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

RAMP = np.tile(np.arange(0, 4096, 16, dtype=np.uint16), (64, 1))  # [64,256], 12 bits
SENTINEL = {"PatientName": "SENTINEL^NAME", "PatientBirthDate": "19010203", "PatientID": "S3NTINEL"}


def dicom(path, pixels=RAMP, bits=12, *, syntax=ExplicitVRLittleEndian, frame=None, **tags):
    """Write a radiograph; `frame` is compressed data to store as it is; None deletes a tag."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * pixels.itemsize, bits, bits - 1
    data.SamplesPerPixel, data.PixelRepresentation = 1, int(pixels.dtype.kind == "i")
    data.PhotometricInterpretation, data.BurnedInAnnotation = "MONOCHROME2", "NO"
    data.PixelData = pixels.tobytes()
    if syntax.is_compressed and frame is None:
        data.compress(syntax)
    if frame is not None:
        data.PixelData = encapsulate([frame])
        data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that no tag may have
        for name, value in (SENTINEL | tags).items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        data.save_as(path, enforce_file_format=True)
    return path
