"""Made files for the tests of this folder: DICOM as scanners write it."""

import struct
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


def lossless_jpeg(pixels, bits):
    """JPEG's lossless process (ITU-T T.81, annex H) of [H,W]: each pixel's difference to its left
    neighbour, in the first column to the one above. Every category has a code of five bits."""
    before = np.roll(pixels.astype(int), 1, axis=1)
    before[1:, 0], before[0, 0] = pixels[:-1, 0], 1 << (bits - 1)
    code = []
    for difference in (pixels - before).ravel().tolist():
        size = abs(difference).bit_length()
        rest = difference if difference >= 0 else difference + (1 << size) - 1
        code.append(f"{size:05b}" + (f"{rest:0{size}b}" if size else ""))
    code = "".join(code)
    code += "1" * (-len(code) % 8)
    data = int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\0")
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    head = struct.pack(">B2H4B", bits, *pixels.shape, 1, 1, 0x11, 0)
    scan = bytes([1, 1, 0, 1, 0, 0])  # predictor 1
    segments = (
        b"\xff" + marker + struct.pack(">H", 2 + len(content)) + content
        for marker, content in ((b"\xc4", table), (b"\xc3", head), (b"\xda", scan))
    )
    return b"\xff\xd8" + b"".join(segments) + data + b"\xff\xd9"
